"""Catalogs as files: YAML, and tables of entries and prompts."""
