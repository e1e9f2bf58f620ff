"""Preprocessors: the edges and scribbles of pictures, and users' own functions."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import ndimage

from animatediff.errors import UserError
from animatediff.rendering.conditions.preprocessing import PREPROCESSORS, canny, find_preprocessor, invert, scribble
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import sample_scenes


def pictures(*frames):
    """(H W 3) uint8 -> (f 3 H W) in [0, 1]."""
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def square(size=32, *, colour=(255, 255, 255), ground=(0, 0, 0)):
    frame = np.full((size, size, 3), ground, np.uint8)
    frame[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = colour
    return frame


ROWS, COLUMNS = np.mgrid[0:48, 0:64]


def noise():
    channels = (ROWS * COLUMNS, ROWS**2 + 3 * COLUMNS, 5 * ROWS + COLUMNS**2)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)


def disc():
    inside = (ROWS - 24) ** 2 + (COLUMNS - 30) ** 2 < 15**2
    return np.where(inside[..., None], np.array([200, 90, 40]), np.array([60, 110, 70])).astype(np.uint8)


@pytest.mark.parametrize(
    ("frame", "count", "digest"),
    [
        (noise(), 1019, "5d7a11cd5cdc99117bd1f737d0f5df65ad064f50946cf288af05e2d3791215b7"),
        (disc(), 96, "581e2bb167491dd9ef11987bae139b834cd5b393dc59a4bf128d426ba34bb0c7"),
    ],
    ids=["noise", "disc"],
)
def test_canny_finds_opencvs_edges(frame, count, digest):
    """Recorded of OpenCV 5.0's `Canny(frame, 100, 200)`."""
    edges = canny(pictures(frame))[0, 0].numpy() > 0
    assert edges.sum() == count
    assert hashlib.sha256(edges.tobytes()).hexdigest() == digest


def regions(lines):
    """The number of parts that lines cut a picture into; a step across a line's corner does not count as a way."""
    return ndimage.label(lines == 0)[1]


@pytest.mark.parametrize("colours", [((255,) * 3, (0,) * 3), ((0,) * 3, (255,) * 3), ((0, 90, 0), (0, 0, 90))])
def test_a_squares_edge_is_a_closed_line_of_one_pixel(colours):
    edges = canny(pictures(square(colour=colours[0], ground=colours[1])))[0, 0].numpy()
    assert regions(edges) == 2
    assert ndimage.label(edges, np.ones((3, 3)))[1] == 1
    for row, column in zip(*np.nonzero(edges), strict=True):  # without any of its pixels it is open
        opened = edges.copy()
        opened[row, column] = 0
        assert ndimage.label(opened == 0, np.ones((3, 3)))[1] == 1
    assert 4 * 15 - 4 <= edges.sum() <= 4 * 16


def test_weak_lines_count_where_they_hang_on_strong_ones():
    frame = np.full((32, 32, 3), 100, np.uint8)
    for rows, step in ((slice(0, 12), 30), (slice(12, 20), 60), (slice(26, 32), 30)):
        frame[rows, 16:] += np.uint8(step)  # 4 times the step is its steepness
    frame[20:26] = 100
    edges = canny(pictures(frame))[0, 0].numpy()
    assert edges[2:10].any(axis=1).all()
    assert not edges[28:].any()


@pytest.mark.parametrize("size", [64, 256, 512])
def test_a_scribble_is_the_edge_with_a_pen(size):
    frame = pictures(square(size))
    lines = scribble(frame)[0, 0].numpy()
    assert regions(lines) == 2
    width = lines[size // 2, : size // 2].sum()
    assert width == (5 if size == 512 else 3)
    assert ndimage.binary_dilation(lines, iterations=2)[canny(frame)[0, 0].numpy() > 0].all()


def test_a_scribble_leaves_texture_out():
    texture = np.random.default_rng(0).integers(90, 166, (256, 256, 3), dtype=np.uint8)
    assert canny(pictures(texture)).mean() > 0.1
    assert scribble(pictures(texture)).mean() < 0.01


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_every_one_gives_pictures_of_the_same_size_and_range(name):
    frames = render(sample_scenes(1, seed=0)[0], num_frames=3, height=48, width=64)
    given = pictures(*frames)
    before = given.clone()
    found = find_preprocessor(name)(given)
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(given, before)
    each = [find_preprocessor(name)(frame[None]) for frame in given]
    assert torch.equal(found, torch.cat(each))
    if name in ("canny", "scribble"):
        assert set(found.unique().tolist()) == {0.0, 1.0}
        assert torch.equal(found[:, 0], found[:, 2])


def test_inverting_twice_is_nothing():
    assert torch.equal(invert(pictures(square())), pictures(square(colour=(0, 0, 0), ground=(255, 255, 255))))
    assert find_preprocessor("none")(given := pictures(square())) is given


def darker(given):
    return given / 2


def smaller(given):
    return given[:, :, 1:]


def levels(given):
    return given * 255


def nothing(given):
    return None


def not_numbers(given):
    return given * float("nan")


def failing(given):
    raise RuntimeError("out of\nluck")


def test_a_users_function_is_named_by_its_path():
    assert torch.equal(find_preprocessor(f"{__name__}:darker")(pictures(square())), pictures(square()) / 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cany", "there is no preprocessor cany: take one of none, canny, scribble, invert, or name a function"),
        ("nowhere:one", "preprocessor nowhere:one: No module named 'nowhere'"),
        (
            f"{__name__}:smaller",
            r"smaller gave torch.float32 \(1, 3, 31, 32\): it is to give float pictures \(1, 3, 32",
        ),
        (f"{__name__}:nothing", "nothing gave NoneType"),
        (f"{__name__}:levels", r"gave numbers from 0 to 255: they are to lie in \[0, 1\]"),
        (f"{__name__}:not_numbers", "gave numbers from nan to nan"),
        (f"{__name__}:failing", "failing failed: RuntimeError: out of luck"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        find_preprocessor(name)(pictures(square()))
    assert "\n" not in str(caught.value)
