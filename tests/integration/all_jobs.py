"""Run the configs of a folder one after another, in one process with one Ray."""

import logging
import sys
from pathlib import Path

from animatediff.config import load
from animatediff.errors import UserError
from pipelines import animate, ingest, score, train
from pipelines.cluster.runtime import end_with_one_line
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig

_JOBS = {
    "ingest": (ingest.main, IngestConfig),
    "train": (train.main, TrainJobConfig),
    "animate": (animate.main, AnimateConfig),
    "score": (score.main, ScoreConfig),
}


def run(folder: Path) -> None:
    """Run each job that has a config, also after one that ended with an error."""
    for name, (main, schema) in _JOBS.items():
        for config in sorted(folder.glob(f"{name}*.yaml")):
            try:
                main(load(schema, str(config)))
            except UserError as error:
                logging.getLogger("pipelines").error("%s: %s", config.stem, error)


if __name__ == "__main__":
    end_with_one_line(lambda: run(Path(sys.argv[1])))
