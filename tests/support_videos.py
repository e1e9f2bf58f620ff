"""Videos as they are found: cut, joined, with coarse or repeated timestamps, HDR, interlaced."""

import io
from fractions import Fraction

import av
import numpy as np

QUIET = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"x265-params": "log-level=none:pools=1:frame-threads=1", "preset": "ultrafast"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
    "libvpx": {"cpu-used": "8", "deadline": "realtime"},
}


def remux(parts, container, *, skip=0, change=None, offset_s=None):
    """The packets of encoded videos as one stream, without the first `skip`.

    `change(number, packet)` may alter each; without `offset_s` a part starts where its own timestamps say.
    """
    buffer, stream, number = io.BytesIO(), None, 0
    with av.open(buffer, "w", format=container) as output:
        for i, part in enumerate(parts):
            with av.open(io.BytesIO(part)) as source:
                video = source.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                for packet in (p for p in source.demux(video) if p.size):
                    number += 1
                    if number <= skip:
                        continue
                    shift = round((offset_s or 0) * i / packet.time_base)
                    packet.pts, packet.dts = (
                        packet.pts + shift,
                        (packet.pts if packet.dts is None else packet.dts) + shift,
                    )
                    if change:
                        change(number - 1, packet)
                    packet.stream = stream
                    output.mux(packet)
    return buffer.getvalue()


def encode_frames(
    frames, *, codec, container="mp4", fps=25, pix_fmt="yuv420p", tags=(), flags=0, options=None, full=False
):
    """Frames with colour tags (matrix, primaries, transfer) and flags of the encoder."""
    buffer = io.BytesIO()

    def tag(thing):
        if tags:
            thing.colorspace, thing.color_primaries, thing.color_trc = tags
        thing.color_range = 2 if full else 1

    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=QUIET.get(codec, {}) | (options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.flags |= flags
        tag(stream.codec_context)
        for image in frames:
            frame = av.VideoFrame.from_ndarray(image, format="rgb48le" if image.dtype == np.uint16 else "rgb24")
            matrix = tags[0] if tags else 5
            frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            tag(frame)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def rounded(count, fps, ticks=1000):
    """(n,) seconds: the frames of a constant rate in a time base of `ticks` a second."""
    return np.round(np.arange(count) * ticks / Fraction(fps).limit_denominator(1001).__float__()) / ticks
