"""Raw videos to captioned shots: scan, select, caption, seal. Run the same command again to continue or to check."""

from typing import TYPE_CHECKING

from pipelines.command import run_job
from pipelines.outputs.claim import claimed_folder
from pipelines.settings import CurateConfig

if TYPE_CHECKING:
    from animatediff.data.curation.manifest import ShotManifest


def main(config: CurateConfig) -> "ShotManifest | None":
    """Curate a collection; returns its manifest, or None after a dry run.

    Raises:
        UserError: the source cannot be read, the output holds another collection, the captions' server does not
            answer, or too many videos are unusable (everything is written all the same).
    """
    with claimed_folder(config.output_uri, "curate", is_dry=config.dry_run):
        from pipelines.stages.curate.driver import curate

        return curate(config)


if __name__ == "__main__":
    run_job(main, CurateConfig)
