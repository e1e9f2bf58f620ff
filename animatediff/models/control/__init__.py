"""Networks beside the UNet that lead what it draws: ControlNets, SparseCtrl encoders."""
