"""AnimateDiff at scale: the library. It knows torch and diffusers, never Ray."""

import logging
import os
import tempfile
from pathlib import Path

# Before the first import of these libraries: they warn at import time (of a missing torchvision, which nothing here
# uses) and draw progress bars of their own over the jobs' output.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# It repeats a failed request five times, each time with a warning; the error that ends it says the same.
os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _temporary_folder() -> str:
    """One a user, so that all processes share their copies; in place of one that another user made first, a new one."""
    folder = Path(tempfile.gettempdir()) / f"animatediff-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder) if folder.stat().st_uid == os.getuid() else tempfile.mkdtemp(prefix="animatediff-")


def _find_caches() -> None:
    """Name a folder for what is kept between runs where a container's user has no home, or one that nobody may use.

    The hub's and torch's caches follow, and the processes that this one starts; Ray Train wants a home at its import.
    """
    if not (named := os.environ.get("XDG_CACHE_HOME")):
        os.environ.pop("XDG_CACHE_HOME", None)  # an empty one is the working directory to some
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the list of users
        os.environ["HOME"] = _temporary_folder()
        home = Path(os.environ["HOME"])
    else:
        if named or (home / ".cache").is_dir() or os.access(home, os.W_OK):
            return
        os.environ["XDG_CACHE_HOME"] = _temporary_folder()
    if not named:
        kept = os.environ.get("XDG_CACHE_HOME") or home / ".cache"
        logging.getLogger(__name__).warning(
            "there is no home folder to keep copies in: they are in %s for now, XDG_CACHE_HOME names another", kept
        )


_find_caches()
