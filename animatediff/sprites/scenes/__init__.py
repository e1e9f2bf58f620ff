"""The sprite world: scenes, their motion, pictures and captions."""
