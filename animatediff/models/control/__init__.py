"""Networks beside the UNet, whose residuals say what a frame shows."""
