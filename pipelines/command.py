"""A job's command line. Its config is read before torch and Ray are imported: a typo is told at once.

That is why the entry files import their job's driver where they call it, and nothing else here does so.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection
from typing import TypeVar

from animatediff.config import Config, parse
from animatediff.errors import UserError
from pipelines import interrupts
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainConfig
from pipelines.submitted import refuse_relative_outputs, runs_folder
from pipelines.tracking import tracking_uri

logger = logging.getLogger(__name__)

_JOBS: dict[str, type[Config]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "animate": AnimateConfig,
    "score": ScoreConfig,
}
_OTHERS: dict[str, Collection[str]] = {
    **{
        f"a config of {job}: give it to python pipelines/{job}.py": schema.model_fields for job, schema in _JOBS.items()
    },
    "a catalog: name it as catalog_uri in a config of pipelines/animate.py": (
        *("entries", "prompts", "base", "motion_module", "noise_schedule"),
        *("width", "height", "num_frames", "num_inference_steps", "guidance_scale", "negative_prompt", "seeds"),
    ),
}
"""What a file may be that is given to the wrong job, and its fields."""

ConfigT = TypeVar("ConfigT", bound=Config)


def run_job(main: Callable[[ConfigT], object], schema: type[ConfigT], *, embedded: Callable[[], str]) -> None:
    """A job's command line: exit code 0 when it did its work, 1 when it could not, 2 when it was asked wrongly.

    Args:
        main: the job.
        schema: its config.
        embedded: makes ready what the embedded default needs (the sprite world) and returns the URI of its config;
            called when the command line is empty.
    """
    configure_logging()
    argv = sys.argv[1:]
    try:
        config = parse(schema, argv, others=_OTHERS) if argv else None
        if config is not None:
            refuse_relative_outputs(config)
        logger.info("MLflow: %s", tracking_uri())
    except UserError as error:
        logger.error("%s", error)
        sys.exit(error.exit_code)
    with interrupts.told_in_one_line():  # a signal while Ray and torch are imported, too
        from pipelines.runtime import end_with_one_line

    end_with_one_line(lambda: main(config if config is not None else _embedded(schema, embedded)))


def _embedded(schema: type[ConfigT], embedded: Callable[[], str]) -> ConfigT:
    logger.info("no arguments: running the embedded default (the sprite world) in %s", runs_folder())
    return parse(schema, [], default_uri=embedded())


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
