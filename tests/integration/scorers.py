"""Scorers of one's own, in a file that imports nothing: a worker that names one imports it."""

import os


def redness(frames, caption):
    """Of a clip that is ingested."""
    return {"redness": float(frames[..., 0].mean()), "caption_length": len(caption)}


def crash_on_red(result, frames):
    """Of a clip that was rendered: it ends its process without a word, as a fault in a compiled library does."""
    if "red" in result.prompt:
        os._exit(1)
    return {"length": len(frames)}
