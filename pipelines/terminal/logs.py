"""Which log lines a terminal gets."""

import logging
import os
import sys
import warnings


def configure_logging() -> None:
    """Log lines of this project to standard error; the libraries' only from warnings on."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("pipelines", "animatediff", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)
    # diffusers asks the hub with it, whoever asks diffusers.
    warnings.filterwarnings("ignore", message="The `local_dir_use_symlinks` argument")
    if not sys.stderr.isatty():
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
