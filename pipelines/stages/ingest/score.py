"""The ingest job's stage for scorers of the user's own, where there are any."""

import time

import torch

from animatediff.data import columns
from animatediff.data.ingest.decode_unit import Clip
from animatediff.data.scoring.scores import load_scorer, run_scorer
from animatediff.errors import UserError
from pipelines.stages.ingest.stage import IngestSpec, Stage, Work


class Score(Stage[Work, Work]):
    """Give each clip the scores of the user's own scorers."""

    takes, gives = "decoded", "decoded"

    def __init__(self, spec: IngestSpec) -> None:
        # As in `Encode`: a scorer that computes with torch gives equal clips equal scores.
        torch.set_num_threads(1)
        self._scorers = [(path, load_scorer(path)) for path in spec.scorers]

    def run(self, taken: Work) -> Work:
        """Set `own_scores` of the unit's clips."""
        began = time.perf_counter()
        for clip in taken.decoded.clips:
            clip.own_scores = self._scores_of(clip)
        return Work(taken.decoded, taken.seconds | {"score": time.perf_counter() - began})

    def _scores_of(self, clip: Clip) -> dict[str, float]:
        own: dict[str, float] = {}
        for path, scorer in self._scorers:
            # A copy: what a scorer does to its frames must reach neither the next one nor the VAE.
            scores = run_scorer(scorer, clip.window.frames.copy(), clip.video.caption)
            taken = sorted(scores.keys() & {*own, *columns.KNOWN})
            if taken:
                raise UserError(f"scorer {path} returned a score named {taken[0]!r}, which is taken: rename it")
            own |= scores
        return own
