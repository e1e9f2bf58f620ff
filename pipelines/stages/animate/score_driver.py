"""The score job on its driver: read the results, score what is not scored yet, write table and gallery again."""

import logging

from animatediff import storage
from animatediff.errors import UserError, errors_with_field
from animatediff.rendering.results.ledger import NO_CLIP, NO_RESULT, read_results, result_for_item
from animatediff.rendering.results.reports import write_reports
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import TABLE
from animatediff.rendering.scoring import load_scorer, mean_scores
from pipelines.cluster.runtime import connect
from pipelines.settings import ScoreConfig
from pipelines.stages.animate.score_worker import score_results
from pipelines.terminal.progress import Progress
from pipelines.tracking.metrics import JobMetrics

logger = logging.getLogger(__name__)


def score(config: ScoreConfig) -> list[Result]:
    """Score the clips that this scorer has not scored yet, and write the table and the gallery anew.

    Returns:
        The results of all items.

    Raises:
        UserError: there is no such scorer, there are no results, or clips turn out to be gone or damaged.
    """
    output_uri = storage.absolute(config.output_uri)
    logger.info("score: %s by %s", output_uri, config.scorer)
    with errors_with_field("scorer"):
        load_scorer(config.scorer)
    results = read_results(output_uri)
    by_digest = {result.digest: result for result in results}
    pending = [r for r in by_digest.values() if r.status == "ok" and (config.again or config.scorer not in r.scores)]
    if config.dry_run:
        logger.info("to score: %d of %d clips", len(pending), len(by_digest))
        return results
    if pending:
        connect()
        with (
            JobMetrics("score", output_uri) as metrics,
            Progress("score", total=len(pending), unit="clip") as progress,
        ):
            for result in score_results(pending, output_uri, config.scorer):
                by_digest[result.digest] = result
                progress.update(1)
                is_scored = config.scorer not in result.score_errors and result.status == "ok"
                metrics.count("animatediff_score_clips_total", status="ok" if is_scored else "failed")
                metrics.progress(progress.num_done, len(pending))
    scored = [result_for_item(by_digest[result.digest], result) for result in results]
    write_reports(output_uri, scored)
    _report(output_uri, scored, config.scorer)
    return scored


def _report(output_uri: str, results: list[Result], scorer: str) -> None:
    for entry, scores in mean_scores(results, scorer).items():
        logger.info("%s: %s", entry, ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    unscored = [result for result in results if scorer in result.score_errors]
    if unscored:
        first = unscored[0]
        why = first.score_errors[scorer]
        logger.warning("%d clips have no scores, first (entry %s): %s", len(unscored), first.entry, why)
    logger.info("scores are in %s and in the gallery", storage.join(output_uri, TABLE))
    if lost := [result for result in results if result.error in (NO_CLIP, NO_RESULT)]:
        raise UserError(
            f"{len(lost)} of {len(results)} items cannot be scored, first (entry {lost[0].entry}): {lost[0].error}"
        )
