"""Videos as they are found: whatever the fault, frames are those that the timestamps say, or there is a reason."""

import numpy as np
import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding import videos
from animatediff.data.decoding.colours import Colours, to_srgb
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.quarantine import Reason, VideoError
from tests.support import encode, numbered_frames, read_number
from tests.support_videos import QUIET, encode_frames, remux

BOTH = load_decoders(["decord", "pyav"])
PYAV = BOTH[1:]
ALL = ClipConfig(num_frames=4, stride=2, height=64, width=96, windows="all")
SIDE = {"height": 128, "width": 192}


def numbers(window):
    return [read_number(frame) for frame in window.frames]


def numbered(codec, container, num=60, **more):
    options = QUIET.get(codec, {}) | more.pop("options", {})
    return encode(numbered_frames(num, **SIDE), codec=codec, container=container, gop=12, options=options, **more)


OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:scenecut=0"}
OPEN_HEVC = {"x265-params": QUIET["libx265"]["x265-params"] + ":open-gop=1:bframes=3:scenecut=0"}


@pytest.mark.parametrize("decoders", [BOTH, PYAV], ids=["both", "pyav"])
@pytest.mark.parametrize(
    ("codec", "source", "container", "skip", "more"),
    [
        ("libx264", "mp4", "matroska", 5, {"b_frames": 0}),
        ("libx264", "mp4", "mp4", 5, {"b_frames": 2}),
        ("libx264", "mp4", "mpegts", 17, {"b_frames": 0}),
        ("libx264", "mp4", "matroska", 5, {"options": OPEN_GOP}),
        ("libx264", "mp4", "mp4", 12, {"options": {"x264-params": "bframes=0:intra-refresh=1"}}),
        ("libx265", "mp4", "mp4", 5, {"options": OPEN_HEVC}),
        ("libx265", "mp4", "mpegts", 9, {"options": OPEN_HEVC}),  # begins with a key frame whose leading ones are lost
        ("mpeg2video", "mpegts", "mpegts", 5, {"b_frames": 2}),
        ("mpeg4", "mp4", "mp4", 5, {"b_frames": 0}),
        ("mpeg4", "mp4", "matroska", 5, {"b_frames": 2}),
        ("libvpx-vp9", "webm", "webm", 5, {}),
    ],
    ids=str,
)
def test_a_cut_stream_begins_at_its_first_frame_that_decodes(codec, source, container, skip, more, decoders):
    data = remux([numbered(codec, source, **more)], container, skip=skip)
    windows = cut_clips("v", data, ALL, decoders)
    shown = [numbers(window) for window in windows]
    begin = shown[0][0]
    assert 6 < begin < 30
    assert len(shown) == (60 - begin + 1) // 8
    assert shown == [[begin + 8 * w + 2 * k for k in range(4)] for w in range(len(shown))]
    info = videos.probe(data)
    # Time is counted from the first frame that the file lists.
    assert windows[0].t_start == pytest.approx((info.pts[0] - info.origin_pts) * float(info.time_base), abs=1e-3)
    assert windows[0].t_start > 0


def repeat(at):
    last = []

    def change(number, packet):
        if number == at:
            packet.pts = packet.dts = last[-1]
        last.append(packet.pts)

    return change


@pytest.mark.parametrize(
    ("codec", "container", "b_frames"),
    [("libx264", "matroska", 0), ("libx265", "matroska", 0), ("mpeg4", "matroska", 0)],
)
def test_a_repeated_timestamp_costs_nothing(codec, container, b_frames):
    data = remux([numbered(codec, "mp4", b_frames=b_frames)], container, change=repeat(17))
    for decoders in (BOTH, PYAV):
        shown = [numbers(window) for window in cut_clips("v", data, ALL, decoders)]
        assert shown == [[8 * w + 2 * k for k in range(4)] for w in range(7)]


def test_of_reordered_frames_with_one_timestamp_one_is_shown():
    def change(number, packet):
        if number == 17:
            packet.pts = times[16]
        times.append(packet.pts)

    times = []
    data = remux([numbered("libx264", "mp4", b_frames=2)], "matroska", change=change)
    assert len(videos.probe(data).pts) == 59
    shown = [number for window in cut_clips("v", data, ALL, BOTH) for number in numbers(window)]
    assert (np.abs(np.diff(shown) - 2) <= 1).all()


def continued(transport_stream, after):
    """The stream with its continuity counters going on where those of the one before end."""
    counters, shifts, data = {}, {}, bytearray(transport_stream)
    for at in range(0, len(after), 188):
        counters[after[at + 1] & 31, after[at + 2]] = after[at + 3] & 15
    for at in range(0, len(data), 188):
        pid = data[at + 1] & 31, data[at + 2]
        shift = shifts.setdefault(pid, counters.get(pid, -1) + 1 - (data[at + 3] & 15))
        data[at + 3] = data[at + 3] & 240 | (data[at + 3] + shift) & 15
    return bytes(data)


def test_a_recording_whose_clock_starts_again_goes_on():
    first, second = (numbered("mpeg2video", "mpegts", num, b_frames=0) for num in (30, 60))
    data = first + continued(second, first)
    shown = [numbers(window) for window in cut_clips("v", data, ALL, BOTH)]
    expected = [*range(30), *range(60)]
    assert all(window == [expected[8 * w + 2 * k] for k in range(4)] for w, window in enumerate(shown))
    assert len(shown) >= 10


def test_a_stream_without_timestamps_is_counted():
    data = numbered("libx264", "h264", b_frames=2)
    assert [numbers(window) for window in cut_clips("v", data, ALL, BOTH)][:2] == [[0, 2, 4, 6], [8, 10, 12, 14]]


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        ("libx264", "mpegts"), ("libx264", "matroska"), ("libx264", "mp4"), ("libx265", "mpegts"),
        ("mpeg2video", "mpegts"), ("libvpx", "webm"), ("libvpx-vp9", "webm"),
    ],
)  # fmt: skip
def test_no_clip_holds_two_sizes(codec, container):
    source = "webm" if "vpx" in codec else "mpegts"
    sizes = [(128, 192), (192, 128), (128, 192)]
    parts = [
        encode(
            numbered_frames(90, *size)[30 * i : 30 * i + 30],
            codec=codec,
            container=source,
            options=QUIET.get(codec),
            b_frames=0,
        )
        for i, size in enumerate(sizes)
    ]
    data = remux(parts, container, offset_s=1.2)
    windows = cut_clips("v", data, ALL.model_copy(update={"sizes": ((96, 64),)}), BOTH)
    assert [window.frames.shape[1:3] for window in windows] == [(64, 96)] * 3 + [(96, 64)] * 3 + [(64, 96)] * 3
    assert [numbers(window) for window in windows] == [
        [30 * run + 8 * w + 2 * k for k in range(4)] for run in range(3) for w in range(3)
    ]


def test_the_aspect_of_pixels_changes():
    parts = [
        encode(numbered_frames(60, **SIDE)[30 * i : 30 * i + 30], codec="libx264", container="mpegts", b_frames=0,
               options=QUIET["libx264"] | {"x264-params": f"sar={sar}"})
        for i, sar in enumerate(("1/1", "2/1"))
    ]  # fmt: skip
    info = videos.probe(remux(parts, "mpegts", offset_s=1.2))
    assert [(run.first_frame, run.width, run.height) for run in info.resolution_spans] == [(0, 192, 128), (30, 192, 64)]


def test_a_change_that_nothing_tells_is_a_reason():
    info = videos.probe(numbered("libx264", "mp4"))
    lying = videos.VideoInfo(**{**info.__dict__, "stored": (100, 100)})
    with pytest.raises(VideoError) as caught:
        list(PYAV[0].frames(numbered("libx264", "mp4"), lying, np.array([3]), height=64, width=96))
    assert caught.value.reason is Reason.SIZE_CHANGES


PATCHES = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [220, 180, 60], [235, 235, 235], [20, 20, 20]])
TO_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # ITU-R BT.2087
TO_P3 = np.array([[0.8225, 0.1774, 0.0001], [0.0332, 0.9669, -0.0001], [0.0171, 0.0724, 0.9105]])


def linear(code):
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def pq(light):
    p = np.clip(light * 203 / 10_000, 0, 1) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * p) / (1 + 18.6875 * p)) ** 78.84375


def hlg(light):
    x = np.clip(light * 0.265, 0, 1)
    return np.where(
        x <= 1 / 12, np.sqrt(3 * x), 0.17883277 * np.log(np.maximum(12 * x - 0.28466892, 1e-9)) + 0.55991073
    )


def gamma(light):
    return np.clip(light, 0, 1) ** (1 / 2.4)


def patches(curve, matrix):
    """Two frames of six columns of 32 pixels, as 16-bit signals."""
    code = curve(np.clip(linear(PATCHES / 255) @ matrix.T, 0, None))
    row = np.repeat((code * 65_535).round().astype(np.uint16), 32, axis=0)
    return np.broadcast_to(row, (8, 64, 192, 3)).copy()


def seen(data, decoders=BOTH):
    config = ClipConfig(num_frames=2, stride=2, height=64, width=192)
    (window,) = cut_clips("v", data, config, decoders)
    return window.frames[0][32, 16::32].astype(int), window.decoder


@pytest.mark.parametrize(
    ("curve", "matrix", "tags", "codec", "pix_fmt", "tolerance"),
    [
        (pq, TO_2020, (9, 9, 16), "libx265", "yuv420p10le", 8),
        (hlg, TO_2020, (9, 9, 18), "libx265", "yuv420p10le", 20),  # its contrast is BT.709's, not sRGB's
        (hlg, TO_2020, (9, 9, 18), "libvpx-vp9", "yuv420p", 24),  # 8 bit
        (hlg, TO_2020, (9, 9, 18), "libx264", "yuv420p10le", 20),
        (pq, TO_2020, (9, 2, 16), "libx265", "yuv420p10le", 8),  # HDR without primaries is BT.2020
        (gamma, TO_2020, (9, 9, 14), "libx264", "yuv420p", 14),  # SDR of a wide gamut
        (gamma, TO_P3, (1, 12, 1), "libx264", "yuv420p", 14),
    ],
    ids=["pq", "hlg", "hlg vp9", "hlg h264", "pq untagged", "2020 sdr", "p3"],
)
def test_hdr_and_wide_gamuts_become_srgb(curve, matrix, tags, codec, pix_fmt, tolerance):
    data = encode_frames(
        patches(curve, matrix),
        codec=codec,
        pix_fmt=pix_fmt,
        tags=tags,
        options={"crf": "8"} if codec == "libx264" else None,
    )
    got, decoder = seen(data)
    assert decoder == "pyav"
    assert np.abs(got - PATCHES).max() <= tolerance


@pytest.mark.parametrize(
    ("tags", "pix_fmt", "full", "codec"),
    [
        ((1, 1, 1), "yuv420p", False, "libx264"),
        ((5, 2, 2), "yuv420p", False, "libx264"),
        ((5, 2, 2), "yuvj420p", True, "libx264"),
        ((1, 1, 1), "yuv420p", True, "libx264"),
        ((1, 1, 1), "yuv420p10le", False, "libx264"),
        ((1, 1, 1), "yuv420p10le", False, "libx265"),
        ((1, 1, 1), "yuv420p", False, "libvpx-vp9"),
    ],
    ids=str,
)
def test_sdr_has_its_colours_in_each_decoder(tags, pix_fmt, full, codec):
    frames = np.broadcast_to(np.repeat(PATCHES.astype(np.uint8), 32, axis=0), (8, 64, 192, 3)).copy()
    data = encode_frames(frames, codec=codec, pix_fmt=pix_fmt, tags=tags, full=full)
    for decoders in (BOTH, PYAV):
        assert np.abs(seen(data, decoders)[0] - PATCHES).max() <= 6


def test_highlights_keep_their_hue_and_order():
    nits = np.array([50, 203, 400, 1000, 4000, 10_000])
    signal = (pq(nits / 203)[:, None] * [65_535] * np.ones(3)).round().astype(np.uint16)[None]
    grey = to_srgb(signal, Colours(9, 9, 16))[0, :, 1].astype(int)
    assert (np.diff(grey[:4]) > 0).all()
    assert (np.diff(grey) >= 0).all()
    assert (grey[1] > 240, grey[-1]) == (True, 255)
    red = (pq(np.array([[8.0, 2.0, 2.0]])) * 65_535).round().astype(np.uint16)[None]
    r, g, b = to_srgb(red, Colours(1, 1, 16))[0, 0].astype(int)
    assert r >= 250
    assert g == b < 160


@pytest.mark.parametrize("tag", [b"dvh1", b"dvhe"])
def test_colours_that_cannot_be_shown_are_a_reason(tag):
    """Dolby Vision of profile 5 does not name its curve; that of profile 8 is HDR10 or HLG to others."""
    data = encode_frames(patches(pq, TO_2020), codec="libx265", pix_fmt="yuv420p10le").replace(b"hev1", tag)
    with pytest.raises(VideoError, match="profile 5") as caught:
        videos.probe(data)
    assert caught.value.reason is Reason.COLOUR_UNSUPPORTED
    hdr10 = encode_frames(patches(pq, TO_2020), codec="libx265", pix_fmt="yuv420p10le", tags=(9, 9, 16))
    assert videos.probe(hdr10.replace(b"hev1", tag)).colours.transfer == 16


def fields(num):
    """Interlaced frames of a bar that moves by 6 pixels a field."""
    frames = np.full((num, 128, 192, 3), 40, np.uint8)
    for i, frame in enumerate(frames):
        for parity in (0, 1):
            x = 8 + (2 * i + parity) * 6 % 150
            frame[parity::2, x : x + 24] = 220
    return frames


def combing(frame):
    lines = frame[..., 0].astype(float)
    return np.abs(lines[1:-1] - (lines[:-2] + lines[2:]) / 2).mean()


INTERLACED = 1 << 18 | 1 << 29  # AV_CODEC_FLAG_INTERLACED_DCT and _ME


@pytest.mark.parametrize(
    ("codec", "container", "options", "flags"),
    [
        ("libx264", "mp4", {"x264-params": "tff=1"}, 0),
        ("libx264", "matroska", {"x264-params": "bff=1"}, 0),
        ("mpeg2video", "mpegts", {}, INTERLACED),
        ("mpeg4", "avi", {}, INTERLACED),
    ],
)
def test_combs_do_not_come_through(codec, container, options, flags):
    data = encode_frames(fields(60), codec=codec, container=container, options=options, flags=flags)
    config = ClipConfig(num_frames=3, stride=2, height=128, width=192, windows_per_video=3)
    windows = cut_clips("v", data, config, BOTH)
    assert {window.decoder for window in windows} == {"pyav"}
    assert combing(fields(60)[30]) > 8
    for window in windows:
        assert max(combing(frame) for frame in window.frames) < 2
        first = round(window.t_start * 25)
        for k, frame in enumerate(window.frames):
            bar = np.flatnonzero(frame[64, :, 0] > 130)
            assert abs(bar.min() - (8 + 2 * (first + 2 * k) * 6 % 150)) <= 8 + 6


def test_pictures_of_single_fields_are_a_reason():
    options = {"x265-params": QUIET["libx265"]["x265-params"] + ":interlace=1"}
    with pytest.raises(VideoError, match="single field") as caught:
        videos.probe(encode_frames(fields(8), codec="libx265", options=options))
    assert caught.value.reason is Reason.CODEC_UNSUPPORTED
