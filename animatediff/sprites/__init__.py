"""The embedded world: captioned clips of moving shapes and a small base model."""
