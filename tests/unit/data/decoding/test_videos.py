import io
import struct

import av
import numpy as np
import pytest

from animatediff.data.decoding import videos
from animatediff.data.quarantine import Reason, VideoError
from tests.support import audio_only, encode, gradient_frames, mp4


def rejected(data, **limits):
    with pytest.raises(VideoError) as caught:
        videos.probe(data, **limits)
    assert caught.value.stage == "probe"
    assert "\n" not in caught.value.detail
    return caught.value


def with_cover(codec=None):
    """An MP4 with a cover picture, and behind it a video in `codec`."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        video = output.add_stream(codec, rate=25) if codec else None
        cover = output.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        if video:
            video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        output.mux(cover.encode(picture) + cover.encode())
        for frame in gradient_frames(6):
            if video:
                output.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if video:
            output.mux(video.encode())
    return buffer.getvalue()


def test_a_constant_frame_rate():
    info = videos.probe(mp4(24))
    assert (info.codec, info.width, info.height, info.rotation) == ("h264", 96, 64, 0)
    assert (info.fps, info.duration_s) == (pytest.approx(25), pytest.approx(24 / 25))
    assert len(info.timestamps) == len(info.packet_bytes) == 24
    assert info.keyframe_pts[0] == info.pts[0]


def test_a_variable_frame_rate_keeps_its_timestamps():
    pts = [0, 33, 67, 100, 300, 500, 700]
    info = videos.probe(encode(gradient_frames(7), codec="libx264", pts=pts))
    assert np.allclose(info.timestamps, np.array(pts) / 1000, atol=0.002)


def test_the_codec_is_named_not_its_library():
    data = encode(gradient_frames(2), codec="libsvtav1", options={"svtav1-params": "progress=0", "preset": "12"})
    assert videos.probe(data).codec == "av1"


def test_a_tag_in_another_character_set_does_no_harm():
    data = encode(gradient_frames(4), codec="libx264", title="caf\xe9")
    assert b"caf\xe9" in data
    assert len(videos.probe(data).pts) == 4


def test_a_file_is_known_by_its_content_alone():
    """There is no name to be misled by: Matroska as some `clip.mp4` is Matroska."""
    assert videos.probe(encode(gradient_frames(4), codec="libx264", container="matroska")).container == "matroska,webm"


def test_wide_pixels_are_made_square_by_shrinking():
    data = bytearray(encode(gradient_frames(4), codec="libx264", options={"x264-params": "sar=2/1"}))
    info = videos.probe(bytes(data))
    assert (info.width, info.height) == (96, 32)


def test_a_cover_picture_is_no_video():
    assert rejected(with_cover()).reason is Reason.NO_STREAM
    info = videos.probe(with_cover("libx264"))
    assert (info.codec, info.width, len(info.pts), info.num_video_streams) == ("h264", 96, 6, 2)


def test_of_several_streams_a_thumbnail_is_not_the_video():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        small, film = output.add_stream("mjpeg", rate=25), output.add_stream("libx264", rate=25)
        small.width, small.height, small.pix_fmt = 48, 32, "yuvj420p"
        film.width, film.height, film.pix_fmt = 96, 64, "yuv420p"
        for i, image in enumerate(gradient_frames(24)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if not i:
                output.mux([*small.encode(frame.reformat(48, 32, "yuvj420p")), *small.encode()])
            output.mux(film.encode(frame))
        output.mux(film.encode())
    info = videos.probe(buffer.getvalue())
    assert (info.stream, info.codec, info.width, len(info.pts), info.num_video_streams) == (1, "h264", 96, 24, 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"<html>404</html>" * 20, Reason.NOT_VIDEO),
        (audio_only(), Reason.NO_STREAM),
        (mp4()[: len(mp4()) // 2], Reason.TRUNCATED),  # the index at the front, frames missing
        (encode(gradient_frames(24), codec="libx264")[:-200], Reason.TRUNCATED),  # the index at the end, missing
        (mp4()[:-1], Reason.TRUNCATED),
        (encode(gradient_frames(2), codec="libx264", container="matroska")[:300], Reason.TRUNCATED),
    ],
    ids=["empty", "html", "audio", "half", "no index", "one byte", "header of Matroska"],
)
def test_unusable_files_have_a_reason(data, reason):
    assert rejected(data).reason is reason


def claiming(side, container):
    """A small VP8 or raw video whose headers claim `side` x `side` pixels."""
    if container == "avi":
        data = encode(gradient_frames(2), codec="rawvideo", container="avi")
        return data.replace(struct.pack("<II", 96, 64), struct.pack("<II", side, side))
    data = bytearray(encode(gradient_frames(2, 304, 320), codec="libvpx", container="matroska"))
    for name, old in ((b"\xb0\x82", 320), (b"\xba\x82", 304)):  # PixelWidth and PixelHeight
        place = data.index(name + struct.pack(">H", old)) + 2
        data[place : place + 2] = struct.pack(">H", side)
    frame = data.index(b"\x9d\x01\x2a") + 3
    data[frame : frame + 4] = struct.pack("<HH", min(side, 16383), min(side, 16383))
    return bytes(data)


def test_a_picture_larger_than_the_limit_is_told_from_the_header():
    error = rejected(claiming(12_000, "matroska"))
    assert error.reason is Reason.TOO_LARGE
    assert "12000x12000" in error.detail
    assert rejected(claiming(65_535, "matroska")).reason is Reason.TOO_LARGE
    assert rejected(mp4(4), max_pixels=64 * 96 - 1).reason is Reason.TOO_LARGE
    assert videos.probe(mp4(4), max_pixels=64 * 96)


def test_a_four_gigapixel_header_is_refused_by_ffmpeg_itself():
    """It forgets the size then, so it cannot be named."""
    assert rejected(claiming(65_535, "avi")).reason is Reason.DECODE_ERROR


def test_a_false_size_beside_a_true_stream_does_no_harm():
    data = mp4(4).replace(struct.pack(">HH", 96, 64), struct.pack(">HH", 65_535, 65_535))
    assert videos.probe(data).width == 96


def test_errors_read_the_same_in_every_run():
    text = "[10:29:06] reader.cc:292: [h264 @ 0x563faabf4240] no frame\nand more"
    assert videos.reproducible_reason(RuntimeError(text)) == "reader.cc:292: [h264] no frame"
    assert videos.reproducible_reason(KeyError()) == "KeyError"
