"""Catalogs: which prompts to render with which weights, as files and as items."""
