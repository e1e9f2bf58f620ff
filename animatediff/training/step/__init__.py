"""What a training step is made of: its random draws, the loss, and the optimizer's update."""
