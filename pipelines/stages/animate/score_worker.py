"""Scores on Ray workers: each rendered clip is read once and measured, and its result takes the scores.

The scores are written into the item's own `items/{digest}.json`, so that they last as long as the clip does: a clip
that is rendered anew is scored anew, and a later run of either job finds what is there. A scorer leaves the scores of
others as they are.
"""

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import ray

from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import error_line, without_clip, write_item
from animatediff.rendering.results.result import Result
from animatediff.rendering.scoring import apply_scorer, load_scorer, with_scores
from pipelines.cluster.runtime import num_cpus
from pipelines.cluster.worker_start import waiting_for_workers
from pipelines.terminal.failures import DroppedBlockReasons, as_user_errors

logger = logging.getLogger(__name__)

# Enough that a crash costs few clips their scores, few enough for tasks of a worthwhile length.
_MOST_BLOCKS = 500
_WHAT_IS_KEPT = "what is scored is kept, and the same command goes on"
_MEMORY_FIELDS = "what the scorer takes, or the CPUs that Ray may use on a machine"

_scorer = cache(load_scorer)


def score_results(results: list[Result], output_uri: str, scorer: str) -> Iterator[Result]:
    """Score the clips of `results`, of distinct digests, and give them as they are done.

    A clip that cannot be read or measured keeps its result, with the reason among its `score_errors`; so does one whose
    worker died with every retry, and it is tried again by the next run.
    """
    missing = {result.digest: result for result in results}
    num_blocks = min(len(results), _MOST_BLOCKS)
    dataset = ray.data.from_items(
        [{"result": result.model_dump_json()} for result in results], override_num_blocks=num_blocks
    )
    # A clip that kills its worker must not end the others, and a slow scorer is not a hang.
    dataset.context.max_errored_blocks = -1
    dataset.context.execution_no_progress_timeout_s = -1
    scored = dataset.map(_score_row, fn_kwargs={"output_uri": output_uri, "scorer": scorer}, num_cpus=1, max_retries=1)
    with (
        DroppedBlockReasons() as dropped,
        as_user_errors(what_is_kept=_WHAT_IS_KEPT, memory_fields=_MEMORY_FIELDS),
        waiting_for_workers(
            "scoring task", min(num_blocks, num_cpus()), {"CPU": 1}, classes=(), memory_fields=_MEMORY_FIELDS
        ) as end_waiting,
    ):
        for row in scored.iter_rows():
            end_waiting()
            result = Result.model_validate_json(row["result"])
            del missing[result.digest]
            yield result
    for result in missing.values():
        why = f"no scores: {dropped.reason}"
        yield with_scores(result, scorer, None, error=why)


def _score_row(row: dict[str, Any], *, output_uri: str, scorer: str) -> dict[str, Any]:
    result = Result.model_validate_json(row["result"])
    if clip_files.first_damaged(output_uri, result) is not None:
        lost = without_clip(result)
        write_item(output_uri, lost)  # so that it is rendered again
        return {"result": lost.model_dump_json()}
    try:
        frames = clip_files.read_frames(output_uri, result)
        scored = with_scores(result, scorer, apply_scorer(_scorer(scorer), result, frames))
    except Exception as error:
        logger.exception("item %s of entry %s", result.digest, result.entry)
        scored = with_scores(result, scorer, {}, error=error_line(error))
    write_item(output_uri, scored)
    return {"result": scored.model_dump_json()}
