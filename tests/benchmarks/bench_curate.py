"""What the curate job's driver takes for a large collection: reading the parts, selecting, and planning shards.

    python -m tests.benchmarks.bench_curate [HOURS]    # default: 1,000 hours in episodes of 24 minutes, a shot each 4 s

The parts are made in a temporary folder, as a scan of so many hours would leave them; that is not timed.
"""

import resource
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np

from animatediff.data.curation import scan_parts
from animatediff.data.curation.seal import plan_shards, with_captions
from animatediff.data.curation.selection import SelectConfig, select
from animatediff.data.ingest import parts
from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS
from animatediff.data.sources.spec import SourceVideo
from tests.support_shots import scanned, shot

EPISODE_S, SHOT_S = 1440, 4
OPENING = 20  # shots that every episode repeats
SELECT = SelectConfig(where="anime", max_shots_per_video=200)


def main() -> None:
    hours = float(sys.argv[1]) if sys.argv[1:] else 1000.0
    num_videos, num_shots = round(hours * 3600 / EPISODE_S), EPISODE_S // SHOT_S
    with tempfile.TemporaryDirectory() as folder:
        units = _write_parts(folder, num_videos, num_shots)
        before = _peak_mb()
        begun = time.perf_counter()
        assert parts.committed_unit_ids(folder) == set(units)
        rows = scan_parts.read_shots(folder, units)
        read = time.perf_counter()
        rows = with_captions(select(rows, SELECT), [None] * len(rows))
        selected = time.perf_counter()
        plans = list(plan_shards(rows, edition=0, first_index=0, shard_bytes=256_000_000))
        done = time.perf_counter()
    chosen = int(np.sum(rows["selected"].to_numpy()))
    print(
        f"{hours:g} h: {num_videos} videos, {len(rows)} shots, {chosen} selected, {len(plans)} shards\n"
        f"reading {read - begun:.1f} s, selecting {selected - read:.1f} s, planning {done - selected:.1f} s\n"
        f"peak memory {_peak_mb():.0f} MB, {before:.0f} MB of them before"
    )


def _write_parts(folder: str, num_videos: int, num_shots: int) -> list[str]:
    rng = np.random.default_rng(0)
    shape = (num_shots, NUM_MOMENTS * NUM_WORDS)
    opening = rng.integers(-(2**63), 2**63 - 1, (OPENING, shape[1]))
    template = shot(0, seconds=SHOT_S - 1.0, num_bytes=700_000, previews=())
    units = []
    for number in range(num_videos):
        video = SourceVideo(f"season-{number // 12}/episode-{number:05d}.mkv", f"s3://bucket/{number}.mkv", "")
        hashes = rng.integers(-(2**63), 2**63 - 1, shape)
        hashes[:OPENING] = opening
        shots = [shot_at(template, index, tuple(words)) for index, words in enumerate(hashes.tolist())]
        units.append(f"{number:07d}")
        scan_parts.commit(folder, units[-1], scan_parts.shot_rows(units[-1], video, scanned(shots)), ())
    return units


def shot_at(template, index, phashes):
    start = float(index * SHOT_S)
    return replace(template, first=index * 96, start_s=start, end_s=start + SHOT_S - 1, phashes=phashes)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
