"""How a model computes: in which precision, by which products, on how many threads."""
