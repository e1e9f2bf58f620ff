"""What several tests need: small real videos."""

import io
import os
from fractions import Fraction

import av
import numpy as np
import yaml

from animatediff.rendering.outputs import encode_mp4


def gradient_frames(num_frames, height=64, width=96):
    """Frames that are told apart: a bright bar whose position is the frame's number."""
    frames = np.full((num_frames, height, width, 3), 32, np.uint8)
    for i, frame in enumerate(frames):
        x = int(i / max(1, num_frames - 1) * (width - 8))
        frame[:, x : x + 8] = (255, 160, 64)
    return frames


def bar_position(frame):
    """Where in [0, 1] the bar of `gradient_frames` is."""
    columns = frame[..., 0].astype(float).mean(axis=0) - 32
    columns[columns < 40] = 0
    return float((columns * np.arange(len(columns))).sum() / columns.sum() / len(columns))


def numbered_frames(num_frames, height=64, width=96):
    """Frames that show their own number as eight black or white bars."""
    frames = np.full((num_frames, height, width, 3), 16, np.uint8)
    bar = width // 8
    for i, frame in enumerate(frames):
        for bit in range(8):
            if i >> bit & 1:
                frame[:, bit * bar : (bit + 1) * bar] = 235
    return frames


def read_number(frame):
    """The number on a frame of `numbered_frames`."""
    bar = frame.shape[1] // 8
    row = frame[frame.shape[0] // 2, :, 0].astype(float)
    return sum(int(row[bit * bar + 2 : (bit + 1) * bar - 2].mean() > 120) << bit for bit in range(8))


def mp4(num_frames=64, *, height=64, width=96, fps=25):
    return encode_mp4(gradient_frames(num_frames, height, width), fps=fps)


def encode(frames, *, codec, container="mp4", pts=None, fps=25, options=None, gop=None, b_frames=None, title=None):
    """Any codec, container, group of pictures and timestamps (in milliseconds)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, metadata_encoding="latin-1") as output:
        if title:
            output.metadata["title"] = title
        stream = output.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if "crf" not in (options or {}):
            stream.bit_rate = 4_000_000
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if gop:
            stream.codec_context.gop_size = gop
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if pts is not None:
                picture.pts, picture.time_base = pts[i], Fraction(1, 1000)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # Where it may, SVT-AV1 makes the thread that calls it a real-time one, before which nothing else on the machine
        # comes, and its children are, too.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return buffer.getvalue()


def audio_only():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16_000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.rate = 16_000
        output.mux(stream.encode(samples))
        output.mux(stream.encode())
    return buffer.getvalue()


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content))
    return str(path)
