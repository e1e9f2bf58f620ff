"""What people and machines ask of a sealed dataset: what it holds, and whether it is whole."""
