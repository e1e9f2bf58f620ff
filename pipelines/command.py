"""A job's command line. Its config is read before torch and Ray are imported: a typo is told at once.

That is why the entry files import their job's driver where they call it, and nothing else here does so.
"""

import logging
import sys
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from animatediff.config import Config, hide_in_arguments, parse, split_config_flag
from animatediff.errors import UsageError, UserError
from animatediff.yaml_files import read_extended_yaml
from pipelines.cluster.submitted import refuse_relative_outputs, runs_folder
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.terminal import interrupts
from pipelines.terminal.logs import configure_logging
from pipelines.tracking.tracker import tracking_uri

logger = logging.getLogger(__name__)

_JOBS: dict[str, type[Config]] = {
    "curate": CurateConfig,
    "ingest": IngestConfig,
    "train": TrainJobConfig,
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


def run_job(main: Callable[[ConfigT], object], schema: type[ConfigT] | None = None) -> None:
    """Run a job by its command line.

    Exit code 0 when it did its work, 1 when it could not, 2 when it was asked wrongly.

    Args:
        main: the job.
        schema: its config. With an empty command line it is the embedded default's. None: that of the job whose fields
            the file has, which must be named then.
    """
    with interrupts.exit_on_signal():  # a signal while a config is fetched, or Ray and torch are imported, too
        configure_logging()
        argv = sys.argv[1:]
        try:
            schema = schema or _schema_of(argv)
            config = parse(schema, argv, others=_OTHERS) if argv else None
            if config is not None:
                refuse_relative_outputs(config)
            logger.info("MLflow: %s", tracking_uri())
        except UserError as error:
            logger.error("%s", error)
            sys.exit(error.exit_code)
        from pipelines.cluster.runtime import end_with_one_line

        end_with_one_line(lambda: main(config if config is not None else _embedded(schema)))


def _schema_of(argv: list[str]) -> Any:
    """Return the config's class of the job whose fields the named file has."""
    uri, _ = split_config_flag(hide_in_arguments(argv))
    if uri is None:
        raise UsageError("name the config of a job: --config FILE")
    fields = read_extended_yaml(uri).keys()
    return max(_JOBS.values(), key=lambda schema: len(fields & schema.model_fields.keys()))


def _embedded(schema: type[ConfigT]) -> ConfigT:
    from pipelines.embedded import DEFAULTS  # no job of a cluster loads the sprite world

    logger.info("no arguments: running the embedded default (the sprite world) in %s", runs_folder())
    return parse(schema, [], default_uri=DEFAULTS[schema]())
