"""What a clip begins from beside noise, and how often it is sampled."""
