"""The curate job's second stage: selected shots are shown to whoever writes captions, and the answers committed."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from animatediff import storage
from animatediff.data.captioning.captioner import load_captioner
from animatediff.data.captioning.captions import CaptionRequest, CaptionResult
from animatediff.data.curation import caption_parts
from animatediff.data.curation.caption_parts import ShotCaption
from animatediff.data.curation.source_copies import SourceCopies, reason_of
from animatediff.data.quarantine import VideoError
from pipelines.cluster.stage import Stage
from pipelines.stages.curate.stage import CaptionBatch, CaptionBatchResult, CaptionSpec

_NOT_TOLD = ("caption", "tags", "caption_model", "video", "selected", "reason", "phashes")
"""Columns that a user's own captioner has no use for: most are not filled yet."""


class Caption(Stage[CaptionBatch, CaptionBatchResult]):
    """Ask for a batch of shots and commit the answers."""

    input_column, output_column = "batch", "result"
    cpus = 0.5
    uses_device = True

    def __init__(self, spec: CaptionSpec) -> None:
        self._spec = spec
        self._captioner = load_captioner(spec.captions, spec.device)
        storage.use_patient_retries()

    def process(self, work: CaptionBatch) -> CaptionBatchResult:
        """Write the batch's part. Where captioning has to end, what is answered already is written all the same."""
        began = time.perf_counter()
        answers: list[ShotCaption] = []
        results: list[CaptionResult] = []
        examples: dict[str, str] = {}
        try:
            for result in self._captioner.caption_all(self._requests(work.shots, answers, examples)):
                results.append(result)
                answers.append(_answer(result))
                if result.reason:
                    examples[str(result.reason)] = f"{result.shot_id}: {result.detail}"
        finally:
            if answers:
                caption_parts.commit(self._spec.output_uri, self._spec.generation, answers)
        reasons = dict(Counter(answer.reason for answer in answers if answer.reason))
        return CaptionBatchResult(
            work.batch_id,
            len(answers) - sum(reasons.values()),
            reasons,
            examples,
            sum(result.usage.prompt_tokens for result in results),
            sum(result.usage.answer_tokens for result in results),
            sum(max(0, result.usage.num_tries - 1) for result in results),
            time.perf_counter() - began,
        )

    def _requests(
        self, shots: Sequence[dict[str, Any]], answers: list[ShotCaption], examples: dict[str, str]
    ) -> Iterator[CaptionRequest]:
        """Yield the shots with their frames; one that gives none is answered at once, and is an example of why."""
        captions = self._spec.captions
        with SourceCopies(self._spec.limits, trusted=self._spec.trusted) as copies:
            for shot in shots:
                try:
                    frames = copies.frames(shot, number=captions.frames, side=captions.side)
                except VideoError as error:
                    reason = reason_of(error)
                    answers.append(ShotCaption(shot["shot_id"], "", (), "", reason))
                    examples[reason] = f"{shot['shot_id']}: {error.detail}"
                    continue
                facts = {name: value for name, value in shot.items() if name not in _NOT_TOLD}
                yield CaptionRequest(shot["shot_id"], frames, facts)


def _answer(result: CaptionResult) -> ShotCaption:
    reason = str(result.reason) if result.reason is not None else ""
    return ShotCaption(result.shot_id, result.caption, result.tags, result.model, reason)
