"""A training state: what is kept of a run to go on with it."""
