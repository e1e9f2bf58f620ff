"""Sealed datasets to batches: selection, order, mixing, loading."""
