"""Low-rank files: read, resolved to weights of a model, scaled, written."""
