"""The bytes of one video: where rows may point, and how they are fetched."""
