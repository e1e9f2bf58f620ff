"""Pictures and videos at the size of what is rendered."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from animatediff.errors import UserError
from animatediff.rendering.conditions.pictures import check_picture, read_picture, read_video_frames
from tests.support import audio_only, encode, numbered_frames, read_number

RED, GREEN, BLUE, WHITE = (220, 40, 30), (20, 180, 60), (30, 60, 210), (255, 255, 255)


def quarters(width=32, height=16):
    """A colour in each quarter, row by row from the top left: red, green, blue, white."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, WHITE
    return pixels


def corners(picture):
    """The colours in the middle of the quarters, as numbers up to 255."""
    _, h, w = picture.shape
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    return [tuple((picture[:, y, x] * 255).round().int().tolist()) for y, x in places]


def saved(path, image, **options):
    image.save(path, **options)
    return str(path)


def test_a_picture_has_the_wanted_size_and_its_own_colours(tmp_path):
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(quarters())), width=64, height=32)
    assert (picture.shape, picture.dtype.itemsize) == ((3, 32, 64), 4)
    assert corners(picture) == [RED, GREEN, BLUE, WHITE]


def test_another_ratio_is_cropped_in_the_centre(tmp_path):
    wide = np.concatenate([np.zeros((16, 10, 3), np.uint8), quarters(), np.zeros((16, 10, 3), np.uint8)], axis=1)
    picture = read_picture(saved(tmp_path / "a.png", Image.fromarray(wide)), width=32, height=16)
    assert np.array_equal((picture * 255).round().byte().permute(1, 2, 0), quarters())


def test_a_picture_is_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a quarter to the right puts it upright
    uri = saved(tmp_path / "a.png", Image.fromarray(quarters(32, 32)), exif=exif)
    assert corners(read_picture(uri, width=32, height=32)) == [BLUE, RED, WHITE, GREEN]


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "I;16", "1", "CMYK"])
def test_pictures_of_every_kind_are_read(tmp_path, mode):
    half = np.full((8, 8), 128, np.uint8)
    image = {
        "RGBA": lambda: Image.merge("RGBA", [Image.fromarray(half)] * 3 + [Image.new("L", (8, 8), 255)]),
        "P": lambda: Image.fromarray(half).convert("P"),
        "LA": lambda: Image.merge("LA", [Image.fromarray(half), Image.new("L", (8, 8), 255)]),
        "I;16": lambda: Image.fromarray(half.astype(np.uint16) * 257),
        "1": lambda: Image.new("1", (8, 8), 1),
        "CMYK": lambda: Image.new("CMYK", (8, 8), (127, 127, 127, 0)),
    }[mode]()
    uri = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image)
    assert Image.open(uri).mode.startswith(mode[0])
    assert np.allclose(read_picture(uri, width=8, height=8), 1.0 if mode == "1" else 128 / 255, atol=1e-6)


@pytest.mark.parametrize("kind", ["alpha", "palette"])
def test_what_is_transparent_is_black(tmp_path, kind):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 255, 0, 255), (4, 0, 8, 8))
    if kind == "palette":
        image = image.quantize(4)
    picture = read_picture(saved(tmp_path / "a.png", image), width=8, height=8)
    assert picture[:, :, :3].max() < 0.01
    assert picture[0].max() < 0.01
    assert picture[1, :, 6:].min() == 1.0


def test_colours_of_another_profile_are_brought_to_srgb(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    image = Image.new("LAB", (8, 8), (255, 128, 128))
    picture = read_picture(saved(tmp_path / "a.tif", image, icc_profile=lab.tobytes()), width=8, height=8)
    assert picture.min() > 0.98  # L* 100 is white


def test_a_damaged_profile_is_left_out(tmp_path):
    uri = saved(tmp_path / "a.png", Image.fromarray(quarters()), icc_profile=b"no profile")
    assert corners(read_picture(uri, width=32, height=16)) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no picture", "truncated", "floats"])
def test_a_file_that_is_no_picture_is_told_in_one_line(tmp_path, content):
    file = tmp_path / "a.png"
    if content == "floats":
        Image.new("F", (4, 4)).save(file, "TIFF")
    elif content == "truncated":
        buffer = io.BytesIO()
        Image.effect_noise((64, 64), 50).save(buffer, "PNG")
        file.write_bytes(buffer.getvalue()[:600])
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.png cannot be read as a picture: ") as error:
        read_picture(str(file), width=8, height=8)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError) as checked:
        check_picture(str(file))
    assert str(checked.value) == str(error.value)


def test_a_photo_as_phones_save_it_is_refused_by_name(tmp_path):
    file = tmp_path / "IMG_0001.HEIC"
    file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(UserError, match="it is HEIC, as phones save photos: save it as JPEG or PNG"):
        check_picture(str(file))


@pytest.mark.parametrize("side", [8200, 20_000])  # the latter is refused by Pillow itself
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    buffer = io.BytesIO()
    Image.new("1", (8, 8)).save(buffer, "BMP")
    header = bytearray(buffer.getvalue())
    header[18:26] = side.to_bytes(4, "little") * 2  # its width and height; the pixels are those of 8 x 8
    file = tmp_path / "a.bmp"
    file.write_bytes(header)
    with pytest.raises(UserError, match="it has more than 67 million pixels: make it smaller"):
        read_picture(str(file), width=8, height=8)


def test_a_picture_or_video_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*a\.png"):
        read_picture(str(tmp_path / "a.png"), width=8, height=8)
    with pytest.raises(UserError, match=r"there is no file .*a\.mp4"):
        read_video_frames(str(tmp_path / "a.mp4"), num_frames=1, fps=8, width=8, height=8)


def test_a_videos_frames_are_taken_from_its_start_at_the_wanted_rate(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(encode(numbered_frames(40), codec="libx264", fps=24))
    frames = read_video_frames(str(file), num_frames=6, fps=8, width=96, height=64)
    assert frames.shape == (6, 3, 64, 96)
    shown = [read_number(frame) for frame in (frames * 255).byte().permute(0, 2, 3, 1).numpy()]
    assert shown == [0, 3, 6, 9, 12, 15]


def test_a_video_that_is_too_short_is_refused_with_what_to_do(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(encode(numbered_frames(24), codec="libx264", fps=24))
    with pytest.raises(UserError, match="too short for num_frames 16 at fps 8 .*take fewer frames, a higher fps"):
        read_video_frames(str(file), num_frames=16, fps=8, width=96, height=64)


def greys(tmp_path, name, levels, ms):
    """An animation of grey pictures, each as long as told."""
    first, *others = [Image.new("RGB", (16, 8), (level, level, level)) for level in levels]
    options = {"lossless": True} if name.endswith(".webp") else {}
    return saved(tmp_path / name, first, save_all=True, append_images=others, duration=ms, loop=0, **options)


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "a.png"])
def test_an_animations_frames_are_taken_at_the_wanted_rate(tmp_path, name):
    uri = greys(tmp_path, name, range(0, 200, 10), 100)
    frames = read_video_frames(uri, num_frames=4, fps=2.5, width=16, height=8)
    assert frames.shape == (4, 3, 8, 16)
    assert (frames.mean(dim=(1, 2, 3)) * 255).round().tolist() == [0, 40, 80, 120]


def test_frames_of_an_animation_that_last_longer_are_taken_more_often(tmp_path):
    uri = greys(tmp_path, "a.webp", [0, 50, 100, 150], [100, 300, 100, 200])
    shown = read_video_frames(uri, num_frames=6, fps=10, width=16, height=8).mean(dim=(1, 2, 3))
    assert (shown * 255).round().tolist() == [0, 50, 50, 50, 100, 150]


def test_an_animation_that_is_too_short_is_refused_with_what_to_do(tmp_path):
    uri = greys(tmp_path, "a.webp", range(0, 80, 10), 100)
    with pytest.raises(UserError, match=r"too short for num_frames 16 at fps 10 \(8 frames in 0.80 s\): take fewer"):
        read_video_frames(uri, num_frames=16, fps=10, width=16, height=8)


@pytest.mark.parametrize("suffix", ["webp", "jpg"])
def test_a_picture_in_a_videos_place_is_told(tmp_path, suffix):
    uri = saved(tmp_path / f"a.{suffix}", Image.fromarray(quarters()))
    with pytest.raises(UserError, match="is a picture, and a video is needed here"):
        read_video_frames(uri, num_frames=4, fps=8, width=8, height=8)


def test_a_file_without_a_video_is_told(tmp_path):
    file = tmp_path / "a.mp4"
    file.write_bytes(audio_only())
    with pytest.raises(UserError, match=r"a\.mp4 cannot be read as a video: the file has no video stream"):
        read_video_frames(str(file), num_frames=4, fps=8, width=96, height=64)
