"""Scores for the clips of a catalog by a measure of one's own, into the table and the gallery. Run it after animate."""

from typing import TYPE_CHECKING

from pipelines.command import run_job
from pipelines.outputs.folder_lease import leased
from pipelines.outputs.output_folder import check_results
from pipelines.settings import ScoreConfig

if TYPE_CHECKING:
    from animatediff.rendering.results.result import Result


def main(config: ScoreConfig) -> "list[Result]":
    """Score the clips that the animate job left in a folder; those that this scorer has scored already stay.

    Raises:
        UserError: there are no results in the folder, or no such scorer.
    """
    check_results(config.output_uri)
    with leased(config.output_uri, "score", is_dry=config.dry_run):
        from pipelines.stages.animate.score_driver import score

        return score(config)


if __name__ == "__main__":
    run_job(main, ScoreConfig)
