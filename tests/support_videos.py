"""Videos as they are found: cut, joined, with coarse or repeated timestamps, HDR, interlaced."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from animatediff.data.clips.resize import largest_box

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


def in_floats(frame, *, height, width, box=None, matrix=None):
    """A decoded YUV frame as RGB in [0, 255], cropped and resized in floating point: what is closest to the file.

    Chroma lies on the pixels of even columns, as codecs but MPEG-1 and JPEG have it by default, and between the rows.
    `box` is (x, y, w, h) of the stored picture, by default the largest in the centre.
    """
    luma, *chroma = (_plane(frame, k) for k in range(3))
    h, w = luma.shape
    is_full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    black, white, grey = (0, 255, 255) if is_full else (16, 235, 224)
    y = (luma - black) / (white - black)
    cb, cr = ((_to_full_size(plane, h, w) - 128) / grey for plane in chroma)
    kr, kb = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}.get(
        int(frame.colorspace if matrix is None else matrix), (0.299, 0.114)
    )
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    left, top, box_w, box_h = box or largest_box(h, w, (height, width))
    edges = (left, top, left + box_w, top + box_h)
    channels = (Image.fromarray((c.clip(0, 1) * 255).astype(np.float32)) for c in (red, green, blue))
    resized = (c.resize((width, height), Image.Resampling.BICUBIC, box=edges) for c in channels)
    return np.stack([np.asarray(c) for c in resized], axis=-1).clip(0, 255)


def _plane(frame, number):
    plane, bits = frame.planes[number], frame.format.components[number].bits
    kind = np.dtype("<u2" if bits > 8 else np.uint8)
    rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width].astype(np.float32) / 2 ** (bits - 8)


def _to_full_size(plane, height, width):
    """Chroma's sample k lies at pixel 2 k where it has half the columns."""
    rows, columns = plane.shape
    shift = 0.25 if columns < width else 0
    padded = Image.fromarray(np.pad(plane, ((0, 0), (0, 1)), mode="edge"))
    edges = (shift, 0, columns + shift, rows)
    return np.asarray(padded.resize((width, height), Image.Resampling.BICUBIC, box=edges))
