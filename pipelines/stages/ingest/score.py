"""The ingest job's stage for scorers of the user's own, where there are any."""

import time

import torch

from animatediff.data import columns
from animatediff.data.ingest.decode_unit import IngestClip
from animatediff.data.scoring.scorers import load_scorer, run_scorer
from animatediff.errors import UserError
from pipelines.cluster.stage import Stage
from pipelines.stages.ingest.stage import DecodedWork, IngestSpec


class Score(Stage[DecodedWork, DecodedWork]):
    """Give each clip the scores of the user's own scorers."""

    input_column, output_column = "decoded", "decoded"

    def __init__(self, spec: IngestSpec) -> None:
        # As in `Encode`: a scorer that computes with torch gives equal clips equal scores.
        torch.set_num_threads(1)
        self._scorers = [(path, load_scorer(path)) for path in spec.scorers]

    def process(self, work: DecodedWork) -> DecodedWork:
        """Set `user_scores` of the unit's clips."""
        began = time.perf_counter()
        for clip in work.decoded_unit.clips:
            clip.user_scores = self._scores_of(clip)
        return DecodedWork(work.decoded_unit, work.seconds | {"score": time.perf_counter() - began})

    def _scores_of(self, clip: IngestClip) -> dict[str, float]:
        found: dict[str, float] = {}
        for path, scorer in self._scorers:
            # A copy: what a scorer does to its frames must reach neither the next one nor the VAE.
            scores = run_scorer(scorer, clip.decoded_clip.frames.copy(), clip.video.caption)
            taken = sorted(scores.keys() & {*found, *columns.KNOWN})
            if taken:
                raise UserError(f"scorer {path} returned a score named {taken[0]!r}, which is taken: rename it")
            found |= scores
        return found
