"""What a clip costs to decode, beside the loops that a user would write, and how close its frames are to the file's.

    python -m tests.benchmarks.bench_decoding            # 12 files, 10 rounds
    python -m tests.benchmarks.bench_decoding --rounds 3

A clip is 16 frames at stride 4 of 256 x 256 pixels. `ours` is all that ingest does for it, in the supervised process
and around it: probing, decoding, cropping, resizing, scoring, and bringing the frames back; `before` is the same with
the decoders decord and pyav, which was the default. The bare loops open the file, decode the same frames in one thread
at a short side of 256, and crop: decord at that size, which is its fastest, and PyAV, which resizes the wanted frames
alone (`bilinear`). They neither turn nor check anything. `PyAV loop with bwdif` deinterlaces by the filter that ours
has for interlaced videos, of which it is the loop to compare with.

All take turns in every round, and processor seconds are counted, those of child processes too, since other programs on
the machine disturb them less. The ratio of a round is ours over the faster loop that gives the right frames: above 25
dB to a resize in floating point, of the stored or the shown picture. As the loops' middle lies a fraction of a pixel
off, theirs are about 30.
"""

import argparse
import contextlib
import io
import itertools
import os
import statistics
import time

import av
import decord
import numpy as np

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.plan import frame_indices_at, plan_clips
from animatediff.data.clips.resize import largest_box
from animatediff.data.decoding.decoders.pyav import decoded
from animatediff.data.decoding.open_file import VideoFile
from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor
from animatediff.data.decoding.videos import probe
from animatediff.data.scoring.scores import score
from tests.benchmarks.decoding_files import build_files
from tests.support_videos import in_floats

SIDE = 256
CLIPS = ClipConfig(height=SIDE, width=SIDE, stride=4)
RIGHT_DB = 25


def short_side(width, height):
    """(width, height) at a short side of SIDE, and where the middle begins."""
    scale = SIDE / min(width, height)
    width, height = round(width * scale), round(height * scale)
    return width, height, (width - SIDE) // 2, (height - SIDE) // 2


def loop_of_decord(data, info, indices):
    width, height, x, y = short_side(info.width, info.height)
    reader = decord.VideoReader(io.BytesIO(data), width=width, height=height, num_threads=1)
    return reader.get_batch(indices).asnumpy()[:, y : y + SIDE, x : x + SIDE]


def loop_of_pyav(data, info, indices):
    wanted, frames = set(indices.tolist()), []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                width, height, x, y = short_side(frame.width, frame.height)
                pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
                frames.append(pixels[y : y + SIDE, x : x + SIDE])
            if len(frames) == len(wanted):
                return np.stack(frames)
    raise ValueError("frames are missing")


def loop_of_pyav_with_bwdif(data, info, indices):
    """As `loop_of_pyav`, of an interlaced video: the filter gives each frame when it has seen the next."""
    wanted, frames, numbers = set(indices.tolist()), [], itertools.count()

    def pull():
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                frame = graph.pull()
                if next(numbers) in wanted:
                    width, height, x, y = short_side(frame.width, frame.height)
                    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BILINEAR")
                    frames.append(pixels[y : y + SIDE, x : x + SIDE])

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        graph = av.filter.Graph()
        graph.threads = 1
        source, sink = graph.add_buffer(template=stream, time_base=stream.time_base), graph.add("buffersink")
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        for frame in container.decode(stream):
            graph.push(frame)
            pull()
            if len(frames) == len(wanted):
                return np.stack(frames)
        graph.push(None)
        pull()
    return np.stack(frames)


class Supervised:
    """Clips by the supervised process, and its processor seconds."""

    def __init__(self, decoders):
        self._supervisor = DecodeSupervisor(DecodeConfig(decoders=decoders), CLIPS)
        self.decoder = ""

    def __call__(self, data, info, indices):
        (clip,) = self._supervisor.cut("video", data)
        self.decoder = clip.decoder
        return clip.frames

    def seconds(self):
        pid = self._supervisor.child_pid
        # Linux's number for the clock of all threads of a process, as glibc's clock_getcpuclockid makes it.
        return 0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)

    def close(self):
        self._supervisor.close()


def measured(way, arguments):
    """Frames, and processor seconds of this process and of the way's own."""
    own = getattr(way, "seconds", lambda: 0.0)
    start = time.process_time() + own()
    frames = way(*arguments)
    return frames, time.process_time() + own() - start


def psnr(found, wanted):
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((found.astype(float) - wanted) ** 2))))


def truths(data, info, indices):
    """The frames in floating point: as they are to be shown, and as they are stored."""
    stored = list(decoded(VideoFile(data, info), indices))
    turned = (info.height, info.width) if info.rotation % 2 else (info.width, info.height)
    across, down = info.stored[0] / turned[0], info.stored[1] / turned[1]
    x, y, w, h = largest_box(turned[1], turned[0], (SIDE, SIDE))
    box = (x * across, y * down, w * across, h * down)
    shown = [np.rot90(in_floats(f, height=SIDE, width=SIDE, box=box), k=info.rotation) for f in stored]
    return np.stack(shown), np.stack([in_floats(f, height=SIDE, width=SIDE) for f in stored])


def bench_file(name, data, ways, rounds):
    info = probe(data)
    (plan,) = plan_clips(info.timestamps, info.resolution_spans, video_id="video", config=CLIPS)
    indices = frame_indices_at(info.timestamps, plan.times, frame_s=info.rate.frame_s)
    (shown, stored), seconds, quality = truths(data, info, indices), {}, {}
    for round_number in range(rounds + 1):  # the first one warms up, and tells who can do it
        for way_name, way in ways.items():
            if (round_number and way_name not in quality) or ("bwdif" in way_name and not info.is_interlaced):
                continue
            try:
                frames, taken = measured(way, (data, info, indices))
            except Exception as error:
                if not round_number:
                    print(f"    {way_name}: {str(error).splitlines()[0][:90]}")
                continue
            if round_number:
                seconds.setdefault(way_name, []).append(taken)
            else:
                quality[way_name] = max(psnr(frames, shown), psnr(frames, stored) if "loop" in way_name else 0)
    loops = [n for n in seconds if "loop" in n and quality[n] > RIGHT_DB and ("bwdif" in n or not info.is_interlaced)]
    fastest = [min(seconds[n][i] for n in loops) for i in range(rounds)]
    start = time.process_time()
    for _ in range(5):
        score(frames)
    scoring = (time.process_time() - start) / 5
    ratios = {n: sorted(s / f for s, f in zip(seconds[n], fastest, strict=True)) for n in ("ours", "before")}
    milliseconds = "  ".join(f"{n} {1000 * statistics.median(s):6.1f}" for n, s in seconds.items())
    print(f"{name:27} ms a clip: {milliseconds}  (scores {1000 * scoring:.1f})")
    ours, before = (f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in ratios.values())
    print(f"{'':27} times the faster loop: ours {ours}, before {before}; by {ways['ours'].decoder}")
    print(f"{'':27} dB: " + "  ".join(f"{n} {q:.1f}" for n, q in quality.items()), flush=True)
    return statistics.median(ratios["ours"]), quality["ours"] - quality["before"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="files whose names hold this")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ways = {
        "ours": Supervised(DecodeConfig().decoders),
        "before": Supervised(("decord", "pyav")),
        "decord loop": loop_of_decord,
        "PyAV loop": loop_of_pyav,
        "PyAV loop with bwdif": loop_of_pyav_with_bwdif,
    }
    results = [bench_file(name, data, ways, arguments.rounds) for name, data in build_files(arguments.only)]
    for way in ("ours", "before"):
        ways[way].close()
    within = sum(ratio <= 1.25 for ratio, _ in results)
    print(
        f"{within} of {len(results)} files within 1.25 times; dB gained: {min(gain for _, gain in results):.1f} or more"
    )


if __name__ == "__main__":
    main()
