"""Weights files in the layouts that users have, read and written."""
