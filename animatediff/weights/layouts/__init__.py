"""What the layouts of weights files call their tensors: tables of names alone."""
