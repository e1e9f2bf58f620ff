"""Files of controls: ControlNets, SparseCtrl encoders, IP-Adapters."""
