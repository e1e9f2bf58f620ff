"""Prompts before they are encoded: weighted pieces of text, and the chunks that a text encoder reads."""
