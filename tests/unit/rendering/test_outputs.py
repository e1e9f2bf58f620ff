import io
import json

import av
import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from animatediff.errors import UserError
from animatediff.rendering.outputs import (
    encode_clip,
    encode_gif,
    encode_mp4,
    encode_png,
    encode_poster,
    encode_webp,
    read_metadata,
)
from tests.support import bar_position, gradient_frames

FORMATS = ("mp4", "gif", "webp", "png", "latents")
METADATA = {
    "prompt": '猫 über "quotes", \\ and </tags>\nlines\ttabs \x00 \x1b \ufffe 😀',
    "settings": json.dumps({"seed": 5, "fps": 8.0}),
    "long": "Ünïcode " * 2_000,
    "empty": "",
}


def latents(num_frames):
    return torch.arange(num_frames * 4 * 2 * 2, dtype=torch.bfloat16).reshape(num_frames, 4, 2, 2)


def test_mp4_is_h264_with_its_index_in_front():
    frames = gradient_frames(6, height=33, width=49)
    data = encode_mp4(frames, fps=8)
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width, float(stream.average_rate)) == (34, 50, 8.0)
        # Chromium ignores the matrix unless all three are said.
        colours = stream.codec_context.colorspace, stream.codec_context.color_primaries, stream.codec_context.color_trc
        assert colours == (6, 1, 13)  # H.264's numbers for SMPTE 170M, BT.709, sRGB
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [bar_position(f) for f in decoded] == pytest.approx([bar_position(f) for f in frames], abs=0.03)
    assert encode_mp4(frames, fps=8) == data


def test_mp4_says_nothing_of_when_it_was_made():
    data = encode_mp4(gradient_frames(2), fps=8, metadata=METADATA)
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        start = data.index(box) + 8  # behind the name, the version and the flags
        assert data[start : start + 8] == bytes(8)  # created and changed


def test_quality_is_the_crf():
    frames = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    assert len(encode_mp4(frames, fps=8, crf=10)) > 2 * len(encode_mp4(frames, fps=8, crf=40))


def test_gif_and_webp_loop_and_last_as_long_as_the_clip():
    frames = gradient_frames(16)
    for data in (encode_gif(frames, fps=8), encode_webp(frames, fps=8)):
        image = Image.open(io.BytesIO(data))
        durations, positions = [], []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
            positions.append(bar_position(np.asarray(image.convert("RGB"))))
        assert (image.n_frames, image.info["loop"], sum(durations)) == (16, 0, 2000)
        assert positions == pytest.approx([bar_position(frame) for frame in frames], abs=0.03)


def test_gif_keeps_few_colours_as_they_are():
    frames = gradient_frames(5)
    image = Image.open(io.BytesIO(encode_gif(frames, fps=8)))
    assert np.array_equal(np.asarray(image.convert("RGB")), frames[0])


def test_png_and_latents_are_exact():
    frames = gradient_frames(3)
    files = {item.suffix: item.data for item in encode_clip(("png", "latents"), frames, latents(3), fps=8)}
    assert files.keys() == {".poster.webp", "/0000.png", "/0001.png", "/0002.png", ".safetensors"}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files["/0002.png"]))), frames[2])
    assert torch.equal(safetensors.torch.load(files[".safetensors"])["latents"], latents(3))


def test_poster_is_small_and_shows_the_middle():
    frames = gradient_frames(5, height=360, width=960)
    poster = Image.open(io.BytesIO(encode_poster(frames)))
    assert poster.size == (320, 120)
    assert bar_position(np.asarray(poster)) == pytest.approx(0.5, abs=0.02)


def test_poster_does_not_show_an_empty_middle():
    frames = gradient_frames(5)
    frames[1:] = 0
    assert np.asarray(Image.open(io.BytesIO(encode_poster(frames)))).max() > 200


@pytest.mark.parametrize("shape", [(1, 33, 49), (3, 1, 7), (256, 16, 16)])
def test_metadata_come_back_from_every_file(shape, tmp_path):
    frames = np.zeros((*shape, 3), np.uint8)
    kinds = set()
    for item in encode_clip((*FORMATS, "mp4"), frames, latents(shape[0]), fps=8, metadata=METADATA):
        path = tmp_path / "file"
        path.write_bytes(item.data)
        if item.suffix not in [f"/{index:04d}.png" for index in range(1, 255)]:
            assert read_metadata(str(path)) == ({} if item.format == "poster" else METADATA), item.format
        kinds.add(item.format)
    assert kinds == {"poster", *FORMATS}


def test_equal_arguments_are_equal_bytes():
    frames = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3), np.uint8)
    assert len({tuple(encode_clip(FORMATS, frames, latents(4), fps=8, metadata=METADATA)) for _ in range(5)}) == 1


def test_files_without_metadata_have_none(tmp_path):
    for item in encode_clip(FORMATS, gradient_frames(2), latents(2), fps=8):
        (tmp_path / "file").write_bytes(item.data)
        assert read_metadata(str(tmp_path / "file")) == {}


def test_another_programs_comment_is_not_ours(tmp_path):
    for comment in (b"made by hand", b"[1, 2]", b'{"a": 1}', b"\xff\xfe"):
        Image.new("RGB", (4, 4)).save(tmp_path / "a.gif", comment=comment)
        assert read_metadata(str(tmp_path / "a.gif")) == {}


@pytest.mark.parametrize("data", [b"", b"text that is long enough", encode_png(np.zeros((4, 4, 3), np.uint8))[:20]])
def test_no_clip_is_refused(data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UserError, match="file is no MP4"):
        read_metadata(str(tmp_path / "file"))


def test_latents_that_are_not_there_are_missed():
    with pytest.raises(ValueError, match="latents"):
        list(encode_clip(["latents"], gradient_frames(1), fps=8))


@pytest.mark.parametrize("frames", [np.zeros((0, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3))])
def test_other_shapes_are_refused(frames):
    for encoder in (encode_mp4, encode_gif, encode_webp):
        with pytest.raises(ValueError, match=r"\(f h w 3\) uint8"):
            encoder(frames, fps=8)


@pytest.mark.parametrize("size", [32, 64])
def test_equal_frames_are_equal_bytes(size):
    """40 times, with the heap in another state each time: x264 once read beside small frames."""
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (1, size, size, 3))
    frames = np.clip(picture + generator.integers(-40, 40, (8, size, size, 3)), 0, 255).astype(np.uint8)
    kept, found = [], set()
    for _ in range(40):
        kept = [*kept[-2:], generator.random(generator.integers(1, 40_000))]
        found.add(encode_mp4(frames, fps=8))
    assert len(found) == 1
