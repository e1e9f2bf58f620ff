"""Captions and tags of shots: by a served model, one of this process, a tagger, or a function of the user's own."""
