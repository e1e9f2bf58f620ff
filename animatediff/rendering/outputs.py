"""Frames to files: MP4 (H.264), GIF and PNG."""

import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def encode_mp4(frames: np.ndarray, *, fps: float, crf: int = 18) -> bytes:
    """An H.264 MP4 that every browser plays.

    Args:
        frames: (f h w 3) uint8 RGB. Odd sizes are padded by one pixel, as yuv420p needs even ones.
        fps: frames per second.
        crf: x264's quality, 0 (lossless) to 51; 18 is visually lossless.
    """
    _check(frames)
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    # A real file: moving the index to the front (faststart) reads the file back.
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w", options={"movflags": "+faststart"}) as container:
            # One encoder thread: the bytes depend on the frames alone, not on the machine's cores. x264's macroblock
            # tree reads beside frames smaller than some 100 pixels: with it 40 encodings of one clip gave up to 12.
            options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
            stream = container.add_stream(
                "libx264", rate=Fraction(fps).limit_denominator(1001), pix_fmt="yuv420p", options=options
            )
            stream.height, stream.width = frames.shape[1:3]
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        return Path(file.name).read_bytes()


def encode_png(frame: np.ndarray) -> bytes:
    """A single picture, (h w 3) uint8 RGB."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def encode_gif(frames: np.ndarray, *, fps: float) -> bytes:
    """An endlessly looping GIF.

    Args:
        frames: (f h w 3) uint8 RGB.
        fps: frames per second; GIF counts in hundredths of a second, and browsers slow down below 2.
    """
    _check(frames)
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    duration_ms = max(20, 10 * round(100 / fps))
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=duration_ms, loop=0)
    return buffer.getvalue()


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be (f h w 3) uint8 with f >= 1, not {frames.shape} {frames.dtype}")
