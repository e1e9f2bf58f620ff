"""Decoders: one file a library, behind one small interface."""
