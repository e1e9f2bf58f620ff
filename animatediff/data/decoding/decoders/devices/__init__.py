"""What decoders on a GPU have in common."""
