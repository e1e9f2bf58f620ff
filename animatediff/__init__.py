"""AnimateDiff at scale: the library. It knows torch and diffusers, never Ray."""

import os

# Before the first import of these libraries: they warn at import time (of a missing torchvision, which nothing here
# uses) and draw progress bars of their own over the jobs' output.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# It repeats a failed request five times, each time with a warning; the error that ends it says the same.
os.environ.setdefault("HF_HUB_VERBOSITY", "error")
