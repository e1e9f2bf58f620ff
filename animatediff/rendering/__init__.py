"""Prompts to frames, catalogs, and the files that come out."""
