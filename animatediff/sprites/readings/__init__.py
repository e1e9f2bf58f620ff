"""What pictures and clips of the sprite world show, read back from their pixels."""
