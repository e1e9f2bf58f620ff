"""Files whose header counts frames that are not there to be seen: trimmed by edit lists, or dropped while recording."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.frames import FrameSelection, read_frames
from animatediff.data.decoding.videos import probe
from animatediff.data.quarantine import Reason, VideoError
from tests.support import encode, numbered_frames, read_number

BOTH = load_decoders(["decord", "pyav"])
_TICKS = 512  # of a frame, as FFmpeg writes MP4 of 25 frames a second
_MS = 40


def with_edits(data, parts):
    """The MP4 with an edit list of (first frame, frames), in its order, in place of its own."""
    shift = struct.unpack(">i", data[(at := data.index(b"elst") + 16) : at + 4])[0]
    entries = b"".join(struct.pack(">IiHH", _MS * number, shift + _TICKS * first, 1, 0) for first, number in parts)
    table = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(parts)) + entries
    box = struct.pack(">I4s", 8 + len(table), b"edts") + table
    start = data.index(b"edts") - 4
    end = start + struct.unpack(">I", data[start : start + 4])[0]
    edited = bytearray(data[:start] + box + data[end:])
    for name in (b"moov", b"trak"):  # the index lies behind the frames, whose places stay
        at = edited.index(name) - 4
        edited[at : at + 4] = struct.pack(">I", struct.unpack(">I", edited[at : at + 4])[0] + len(box) - (end - start))
    return bytes(edited)


def seen_by_ffmpeg(data):
    """Timestamps in seconds and numbers of the frames."""
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(video=0))
        return [f.time for f in frames], [read_number(f.to_ndarray(format="rgb24")) for f in frames]


@pytest.mark.parametrize(
    ("parts", "b_frames"),
    [
        *(([part], b_frames) for part in ((0, 50), (45, 30), (33, 67)) for b_frames in (0, 2)),
        *((parts, b_frames) for parts in ([(10, 40), (10, 40)], [(60, 30), (5, 30)]) for b_frames in (0, 2)),
        ([(0, 30), (50, 30)], 2),
        # With B-frames FFmpeg gives the last frame of one part and the first of the next the same timestamp here.
        ([(50, 20), (20, 20), (70, 20)], 0),
    ],
)
def test_what_an_edit_list_shows_is_the_video(parts, b_frames):
    data = with_edits(encode(numbered_frames(100), codec="libx264", gop=12, b_frames=b_frames), parts)
    info, wanted = probe(data), [first + i for first, number in parts for i in range(number)]
    times, numbers = seen_by_ffmpeg(data)
    assert numbers == wanted
    np.testing.assert_allclose(info.timestamps, np.array(times) - times[0], atol=1e-6)
    frames, _ = read_frames(data, info, FrameSelection(np.arange(len(wanted)), 64, 96), BOTH)
    assert [read_number(frame) for frame in frames] == wanted


def test_a_trimmed_file_that_breaks_off_is_told(tmp_path):
    path = tmp_path / "front.mp4"
    source = encode(numbered_frames(100), codec="libx264", gop=12, b_frames=0)
    with av.open(io.BytesIO(source)) as read, av.open(str(path), "w", options={"movflags": "faststart"}) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            packet.stream = stream
            written.mux(packet)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    data[at : at + 4] = struct.pack(">I", 60 * _MS)
    assert len(probe(bytes(data)).pts) == 60
    with pytest.raises(VideoError, match="frames that the header promises") as caught:
        probe(bytes(data[: len(data) // 2]))
    assert caught.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
@pytest.mark.parametrize("dropped", [1, 5])
def test_frames_that_an_avi_dropped_are_not_missing(codec, dropped):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i, pixels in enumerate(numbered_frames(60)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = i + dropped * (i >= 30), Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    data = buffer.getvalue()
    for whole in (data, data[: data.rindex(b"idx1")]):
        info = probe(whole)
        frames, _ = read_frames(whole, info, FrameSelection(np.arange(60), 64, 96), BOTH)
        assert [read_number(frame) for frame in frames] == list(range(60))
        assert np.diff(info.timestamps).argmax() == 29
    for share in (0.5, 0.9):
        with pytest.raises(VideoError) as caught:
            probe(data[: int(share * len(data))])
        assert caught.value.reason == Reason.TRUNCATED
