"""AnimateDiff at scale: the library. It knows torch and diffusers, never Ray."""
