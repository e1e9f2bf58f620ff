"""The training step and its state."""
