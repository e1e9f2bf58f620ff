"""The small models of the sprite world, and how they are trained."""
