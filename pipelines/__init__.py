"""The Ray jobs."""

import os

# Before the first import of these libraries: their warnings at import time (a missing torchvision, which nothing here
# uses) and their own progress bars would be drawn over the jobs' output.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
