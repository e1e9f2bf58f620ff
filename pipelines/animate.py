"""A catalog of prompts and personalised models to clips, a table and a gallery. Run it again to continue."""

from typing import TYPE_CHECKING

from pipelines.command import run_job
from pipelines.outputs.claim import claimed_folder
from pipelines.settings import AnimateConfig

if TYPE_CHECKING:
    from collections import Counter


def main(config: AnimateConfig) -> "Counter[str]":
    """Render a catalog.

    Returns:
        The number of items by status; none after a dry run.

    Raises:
        UserError: nothing in the catalog can be rendered as it is written, or items failed (the others are rendered
            and everything is written all the same).
    """
    with claimed_folder(config.output_uri, "animate", is_dry=config.dry_run):
        from pipelines.stages.animate.driver import animate

        return animate(config)


if __name__ == "__main__":
    run_job(main, AnimateConfig)
