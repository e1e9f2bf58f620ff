"""A job's output folder: whose it is, and that one job at a time writes to it."""
