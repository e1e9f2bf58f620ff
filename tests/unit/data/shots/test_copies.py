"""Shots as files of their own: frame k of the copy is frame start + k of the source, whatever the source is."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from animatediff.data.decoding.decoders.pyav import PyAV
from animatediff.data.decoding.videos import probe
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies import copy_shot
from tests.support_videos import QUIET, encode_frames, remux
from tests.unit.data.decoding.test_incomplete_indexes import with_edits

NUM = 96
HEIGHT, WIDTH = 64, 96
INTERLACED_ENCODING, INTERLACED_MOTION = 1 << 18, 1 << 29
X265 = "log-level=none:pools=1:frame-threads=1"
GAPS_MS = np.random.default_rng(3).choice([20, 33, 42, 80], NUM)


def film():
    """Moving pictures with a cut, each with its number in black and white."""
    noise = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([noise[i : i + HEIGHT, 2 * i : 2 * i + WIDTH] for i in range(NUM)])
    frames[NUM // 2 :] = 255 - frames[NUM // 2 :]
    for number, frame in enumerate(frames):
        for bit in range(7):
            frame[:8, 8 * bit : 8 * bit + 8] = 255 * (number >> bit & 1)
    return frames


def encode(
    codec, container, *, options=None, fps=24, times_ms=None, aspect=None, rotation=None, mirrored=False, sound=False
):
    """The film, as one finds it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options=QUIET.get(codec, {}) | (options or {}))
        stream.height, stream.width, stream.codec_context.gop_size = HEIGHT, WIDTH, 24
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation or mirrored:
            stream.set_display_rotation(rotation or 0, vflip=mirrored)
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        voice = output.add_stream("aac", rate=48000) if sound else None
        for number, image in enumerate(film()):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            if times_ms is not None:
                frame.pts, frame.time_base = int(times_ms[number]), Fraction(1, 1000)
            output.mux(stream.encode(frame))
            if voice is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 2000), np.float32), format="fltp", layout="mono")
                silence.sample_rate = 48000
                output.mux(voice.encode(silence))
        output.mux(stream.encode())
        output.mux(voice.encode() if voice is not None else [])
    return buffer.getvalue()


def x264(params, **options):
    return {"codec": "libx264", "options": {"preset": "veryfast", "x264-params": params}} | options


def x265(params, **options):
    return {"codec": "libx265", "options": {"x265-params": f"{X265}:{params}"}} | options


CLOSED, OPEN = "keyint=24:bframes=4", "keyint=24:min-keyint=24:open-gop=1:bframes=4:scenecut=0"
SOURCES = {
    "H.264 with a pyramid of B-frames in Matroska": x264(f"{CLOSED}:b-pyramid=normal", container="matroska"),
    "H.264 in MP4 with sound": x264(CLOSED, container="mp4", sound=True),
    "H.264 in MPEG-TS with sound": x264(CLOSED, container="mpegts", sound=True),
    "H.264 in MOV, turned": x264(CLOSED, container="mov", rotation=90),
    "H.264 in MOV, mirrored": x264(CLOSED, container="mov", mirrored=True),
    "H.264 in MP4, mirrored and turned": x264(CLOSED, container="mp4", rotation=90, mirrored=True),
    "H.264 in Matroska, turned, of wide pixels": x264(
        CLOSED, container="matroska", rotation=-90, aspect=Fraction(4, 3)
    ),
    "H.264 with few key frames, NTSC": x264("keyint=240", container="matroska", fps=Fraction(24000, 1001)),
    "H.264 of an open GOP in Matroska": x264(OPEN, container="matroska"),
    "H.264 of an open GOP in MP4": x264(OPEN, container="mp4"),
    "H.264 of an open GOP in MPEG-TS": x264(OPEN, container="mpegts"),
    "H.264 of a variable rate": x264(CLOSED, container="matroska", times_ms=np.cumsum(GAPS_MS)),
    "H.264 with an edit list": x264(CLOSED, container="mp4", times_ms=np.cumsum(GAPS_MS) - 500),
    "H.264 refreshed by and by": x264("keyint=30:intra-refresh=1:bframes=0", container="mpegts"),
    "H.264 in AVI, which tells no times": x264(CLOSED, container="avi"),
    "H.264 without a container": x264(CLOSED, container="h264"),
    "H.264 in a program stream, which times few packets": x264(CLOSED, container="vob"),
    "HEVC in Matroska": x265(CLOSED, container="matroska"),
    "HEVC of an open GOP in Matroska": x265(OPEN, container="matroska"),
    "HEVC of an open GOP in MPEG-TS": x265(OPEN, container="mpegts"),
    "HEVC of an open GOP in MP4, of a variable rate": x265(OPEN, container="mp4", times_ms=np.cumsum(GAPS_MS)),
    "VP9 in WebM": {"codec": "libvpx-vp9", "container": "webm", "options": {"auto-alt-ref": "1"}},
    "VP8 in WebM, of narrow pixels": {"codec": "libvpx", "container": "webm", "aspect": Fraction(3, 4)},
    "AV1 in MP4": {"codec": "libsvtav1", "container": "mp4", "options": {"preset": "12", "svtav1-params": "lp=1"}},
    "MPEG-4 in AVI": {"codec": "mpeg4", "container": "avi", "options": {"bf": "2"}},
    "MPEG-2 in MPEG-TS": {"codec": "mpeg2video", "container": "mpegts", "options": {"bf": "2"}},
    "WMV, which MP4 cannot hold": {"codec": "wmv2", "container": "asf"},
}


def all_frames(data, info):
    indices = np.arange(len(info.pts))
    return np.stack(list(PyAV().frames(data, info, indices, height=info.height, width=info.width))).astype(int)


def look(info):
    return info.width, info.height, info.rotation, info.is_mirrored, info.colours.are_srgb, info.is_interlaced


def assert_exact(data, info, frames, first, last, margin=0):
    copy = copy_shot(io.BytesIO(data), start_pts=int(info.pts[first]), last_pts=int(info.pts[last]))
    found = probe(copy)
    assert len(found.pts) == last - first + 1
    assert np.array_equal(found.pts - found.origin_pts, info.pts[first : last + 1] - info.pts[first])
    if last - first > 8:  # the ticks are as long as in the source
        assert found.fps == pytest.approx(info.fps, rel=0.5)
    assert look(found) == look(info)
    inner = slice(margin, last - first + 1 - margin)
    assert np.abs(all_frames(copy, found) - frames[first : last + 1])[inner].mean((1, 2, 3)).max() < 0.5
    return copy, found


@pytest.mark.parametrize("name", SOURCES)
def test_each_frame_is_the_sources(name):
    data = encode(**SOURCES[name])
    info = probe(data)
    frames = all_frames(data, info)
    rng = np.random.default_rng(sorted(SOURCES).index(name))
    last = len(info.pts) - 1
    shots = [(0, last), (0, 0), (last, last), (last - 20, last)]
    for first in rng.integers(1, last - 8, 5):
        shots.append((int(first), int(min(last, first + rng.integers(1, 40)))))
    for first, end in shots:
        _, found = assert_exact(data, info, frames, first, end)
        assert found.num_video_streams == 1
        assert found.codec in (info.codec, "ffv1")


@pytest.mark.parametrize("parts", [[(20, 40)], [(33, 30)], [(10, 40), (10, 40)]])
def test_of_a_trimmed_video_what_is_shown_is_copied(parts):
    data = with_edits(encode(**x264(CLOSED, container="mp4", fps=25)), parts)
    info = probe(data)
    frames, last = all_frames(data, info), len(info.pts) - 1
    assert last + 1 == sum(number for _, number in parts)
    for first, end in ((0, last), (5, last), (3, 20), (last - 9, last)):
        assert_exact(data, info, frames, first, end)


@pytest.mark.parametrize("name", [n for n in SOURCES if "H.264" in n and "Matroska" in n] + ["HEVC in Matroska"])
def test_packets_are_taken_as_they_are(name):
    data = encode(**SOURCES[name])
    info = probe(data)
    copy = copy_shot(io.BytesIO(data), start_pts=int(info.pts[50]), last_pts=int(info.pts[70]))
    assert probe(copy).codec == info.codec
    assert len(copy) < len(data)
    with av.open(io.BytesIO(copy)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize(
    ("codec", "tags", "full"),
    [
        ("libx265", (9, 9, 16), False),  # HDR10
        ("ffv1", (2, 2, 16), False),  # tags that MP4 takes in full or not at all
        ("ffv1", (1, 2, 2), True),
        ("mpeg4", (1, 2, 2), True),
        ("libvpx", (1, 2, 2), True),
    ],
)
def test_colours_mean_the_same(codec, tags, full):
    deep = codec in ("libx265", "ffv1")
    frames = film()[:40].astype(np.uint16) * 257 if deep else film()[:40]
    pixels = "yuv420p10le" if deep else "yuv420p"
    data = encode_frames(frames, codec=codec, container="matroska", pix_fmt=pixels, tags=tags, full=full)
    info = probe(data)
    assert_exact(data, info, all_frames(data, info), 7, 30)


def test_fields_stay_fields():
    flags = INTERLACED_ENCODING | INTERLACED_MOTION
    data = encode_frames(film(), codec="mpeg2video", container="mpegts", flags=flags)
    info = probe(data)
    assert info.is_interlaced
    # What stands in for the neighbours of a shot's first and last frame is another's.
    assert_exact(data, info, all_frames(data, info), 31, 60, margin=2)


def test_where_no_copy_is_right_it_says_so():
    data = encode(**SOURCES["H.264 in MP4 with sound"])
    info = probe(data)
    start, last = int(info.pts[10]), int(info.pts[20])
    assert len(probe(copy_shot(io.BytesIO(data), start_pts=start, last_pts=last, num_frames=11)).pts) == 11
    with pytest.raises(VideoError, match="11 frames are shown .* 12 are expected"):
        copy_shot(io.BytesIO(data), start_pts=start, last_pts=last, num_frames=12)
    for first, end in ((start + 1, last), (start, last + 1), (10**9, 10**9 + 5), (last, start)):
        with pytest.raises(VideoError) as error:
            copy_shot(io.BytesIO(data), start_pts=first, last_pts=end)
        assert error.value.reason is Reason.DECODE_ERROR
    for content in (b"no video" * 100, b"", data[:1000]):
        with pytest.raises(VideoError):
            copy_shot(io.BytesIO(content), start_pts=0, last_pts=5)


def test_what_is_called_a_key_frame_and_is_none_is_not_begun_with():
    data = encode(**x264("keyint=200:bframes=0:scenecut=0", container="matroska"))

    def call_key(number, packet):
        packet.is_keyframe = number % 10 == 0

    broken = remux([data], "matroska", change=call_key)
    info = probe(broken)
    frames = all_frames(data, probe(data))
    assert_exact(broken, info, frames, 45, 60)


def test_a_change_of_size_is_in_the_copy_where_it_is_in_the_source():
    small = encode_frames(film()[:48, :32], codec="libx264", container="mpegts")
    data = remux([encode(**SOURCES["H.264 in MPEG-TS with sound"]), small], "mpegts", offset_s=10)
    info = probe(data)
    change = info.changes[0].first_frame
    copy = copy_shot(io.BytesIO(data), start_pts=int(info.pts[change - 5]), last_pts=int(info.pts[change + 5]))
    assert [(c.first_frame, c.displayed) for c in probe(copy).changes] == [(5, info.changes[0].displayed)]
    behind = copy_shot(io.BytesIO(data), start_pts=int(info.pts[change + 2]), last_pts=int(info.pts[change + 9]))
    assert (probe(behind).width, probe(behind).height) == info.changes[0].displayed


@pytest.mark.parametrize("name", ["H.264 of an open GOP in MPEG-TS", "HEVC in Matroska", "MPEG-4 in AVI"])
def test_damage_costs_a_video_error_or_nothing(name):
    data = encode(**SOURCES[name])
    pts = probe(data).pts
    rng = np.random.default_rng(0)
    for _ in range(20):
        damaged = bytearray(data)
        for at in rng.integers(len(data), size=int(rng.integers(1, 40))):
            damaged[at] = int(rng.integers(256))
        first = int(rng.integers(len(pts) - 10))
        file = io.BytesIO(damaged[: int(rng.integers(len(data) // 2, len(data)))])
        try:
            copy = copy_shot(file, start_pts=int(pts[first]), last_pts=int(pts[first + 8]), num_frames=9)
        except VideoError:
            continue
        assert len(probe(copy).pts) == 9
