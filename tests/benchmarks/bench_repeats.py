"""Which shots of one video repeat an earlier one: what is found of footage that is there twice, and what is not that.

    python -m tests.benchmarks.bench_repeats [SEED ...]    # a video of 112 shots each, scanned as the curate job does

Half of what is there twice comes again as it was, the rest with subtitles or a few frames shorter. Between the two are
the other shots of the video. What resembles an earlier shot and is another take: `tests/support_lookalikes.py`.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from animatediff.data.curation.repeats import find_repeats
from animatediff.data.shots.config import ShotConfig
from animatediff.data.shots.scan import scan_video
from tests import support_episodes as episodes
from tests import support_lookalikes as lookalikes
from tests.support_writing import subtitled

EACH = 4
"""Pairs of a kind in a video."""


def on_twos(rng: np.random.Generator, num: int) -> np.ndarray:
    return episodes._held(episodes._drawn(rng, num), 2)


def sprites(rng: np.random.Generator, num: int) -> np.ndarray:
    """Those that move: what is held all the time is left out for that."""
    while True:
        frames = episodes._sprites(rng, num)
        if (frames[0] != frames[-1]).any():
            return frames


FOOTAGE: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (
    episodes._pan,
    episodes._drawn,
    on_twos,
    sprites,
)


def speaks(rng: np.random.Generator, num: int) -> np.ndarray:
    return lookalikes._speaker(rng)(num)


def again(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    form = rng.choice(["same", "same", "subtitles", "shorter"])
    if form == "subtitles":
        return subtitled(rng, frames)
    begin, end = rng.integers(0, 4, 2) if form == "shorter" else (0, 0)
    return frames[begin : len(frames) - end]


def main() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    num_foreign = 0
    began = time.process_time()
    for seed in [int(word) for word in sys.argv[1:]] or [0, 1, 2]:
        rng = np.random.default_rng(seed)
        pairs = []
        for maker in (*FOOTAGE, speaks):
            for _ in range(EACH):
                frames = maker(rng, int(rng.integers(54, 110)))
                pairs.append((f"twice: {maker.__name__.strip('_')}", frames, again(rng, frames)))
        for kind in lookalikes.KINDS:
            pairs += [(f"no repeat: {kind.__name__}", *kind(rng)) for _ in range(EACH - 1)]
        num_foreign += tally(pairs, rng, counts)
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"{counts[name, 'found']:>4} of {counts[name, 'shots']:>4} {name}")
    print(f"{counts['foreign', 'found']} of {num_foreign} pairs of shots that have nothing in common")
    print(f"{time.process_time() - began:.0f} s")


def tally(pairs: list[tuple[str, np.ndarray, np.ndarray]], rng: np.random.Generator, counts: Counter) -> int:
    """Count what is found in a video of these shots; return how many pairs of its shots have nothing in common."""
    order = rng.permutation(len(pairs))
    shots = [pairs[i][1] for i in order] + [pairs[i][2] for i in order]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mkv"
        episodes.write_video(path, (frame for shot in shots for frame in shot))
        with path.open("rb") as file:
            scanned = scan_video(file, ShotConfig(min_s=0.5)).shots
    begins = np.cumsum([0, *map(len, shots)])
    middles = np.array([shot.first + shot.num_frames // 2 for shot in scanned])
    places = np.searchsorted(begins, middles, side="right") - 1
    ids = pa.array([str(number) for number in range(len(scanned))])
    videos = pa.array(["a"] * len(scanned))
    phashes = pa.array([shot.phashes for shot in scanned], pa.list_(pa.int64()))
    repeats = find_repeats(ids, videos, phashes).to_pylist()
    for name, _, _ in pairs:
        counts[name, "shots"] += 1
    for number, repeated in enumerate(repeats):
        if repeated:
            place, original = places[number], places[int(repeated)]
            is_pair = place % len(order) == original % len(order)
            counts[pairs[order[place % len(order)]][0] if is_pair else "foreign", "found"] += 1
    return len(scanned) * (len(scanned) - 1) // 2


if __name__ == "__main__":
    main()
