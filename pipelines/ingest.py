"""Videos to latent shards: plan, encode, seal, publish. Run the same command again to continue or to check."""

from typing import TYPE_CHECKING

from pipelines.command import run_job
from pipelines.outputs.claim import claimed_folder
from pipelines.settings import IngestConfig

if TYPE_CHECKING:
    from animatediff.data.manifest import Manifest


def main(config: IngestConfig) -> "Manifest | None":
    """Ingest a source; returns the dataset's manifest, or None after a dry run.

    Raises:
        UserError: the source or the base cannot be read, the output holds another dataset, or too many videos are
            unusable (everything is written all the same).
    """
    with claimed_folder(config.output_uri, "ingest", is_dry=config.dry_run):
        from pipelines.stages.ingest.driver import ingest

        return ingest(config)


if __name__ == "__main__":
    run_job(main, IngestConfig)
