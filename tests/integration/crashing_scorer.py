"""A scorer that ends its process without a word, as a fault in a compiled library does."""

import os


def crash_on_red(result, frames):
    if "red" in result.prompt:
        os._exit(1)
    return {"length": len(frames)}
