"""Latent shards to a motion module, a domain adapter or a MotionLoRA.

Run the same command again to continue; raise train.num_steps to go on longer.
"""

from typing import TYPE_CHECKING

from pipelines.command import run_job
from pipelines.outputs.claim import claimed_folder
from pipelines.settings import TrainJobConfig

if TYPE_CHECKING:
    from pipelines.stages.train.run import RunState


def main(config: TrainJobConfig) -> "RunState | None":
    """Train what the recipe says; returns the run, or None after a dry run.

    Raises:
        UserError: the dataset or the base cannot be read, they do not fit, no clip is chosen, or the
            folder holds another run.
    """
    with claimed_folder(config.output_uri, "train", is_dry=config.dry_run):
        from pipelines.stages.train.driver import train

        return train(config)


if __name__ == "__main__":
    run_job(main, TrainJobConfig)
