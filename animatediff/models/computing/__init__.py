"""How a model computes: in which precision, as PyTorch runs it or compiled."""
