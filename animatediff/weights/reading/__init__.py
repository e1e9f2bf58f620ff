"""Weights files at any URI to tensors by name, whoever wrote them."""
