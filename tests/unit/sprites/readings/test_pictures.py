"""Pictures whose truth is known are read right, and what shows no single known thing is not read at all."""

import dataclasses
import io
import itertools
import math
from functools import cache

import av
import numpy as np
import pytest
from scipy import ndimage

from animatediff.rendering.outputs import encode_mp4
from animatediff.sprites.readings.pictures import Reading, matches, read
from animatediff.sprites.readings.shape import SYMMETRIES
from animatediff.sprites.scenes.drawing import STYLES, draw, render
from animatediff.sprites.scenes.shapes import OUTLINES
from animatediff.sprites.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    MIN_CONTRAST,
    SIZES,
    Pose,
    Scene,
    pose,
    sample_scenes,
)

BROWN = (130, 80, 35)
AT = Pose(x=0.04, y=-0.03, radius=0.23, angle=0.3)


def paint(shape="star", colour="red", background="black", at=AT, style="plain", height=64, width=64):
    rgb = COLOURS[colour] if isinstance(colour, str) else colour
    return draw(shape, rgb, BACKGROUNDS[background], at, height, width, style)


@cache
def moments(style):
    """Random moments of random clips, held-out pairs too: (scene, pose, picture)."""
    rng = np.random.default_rng(7)
    scenes = sample_scenes(180, 3) + sample_scenes(36, 3, held_out=True)
    poses = [pose(scene, rng.random()) for scene in scenes]
    return [
        (scene, at, paint(scene.shape, scene.colour, scene.background, at, style))
        for scene, at in zip(scenes, poses, strict=True)
    ]


def degraded(frame, rng):
    """As an autoencoder leaves it."""
    blurred = ndimage.gaussian_filter(frame.astype(float), (0.6, 0.6, 0))
    return (blurred + rng.normal(0, 4, frame.shape)).clip(0, 255).round().astype(np.uint8)


def shares_right(scenes, readings, style):
    """By attribute; in chalk the background is right where it is not read."""
    right = [
        dataclasses.asdict(matches(reading, scene))
        | {"style": reading.style == style}
        | ({"size": True} if scene.motion in ("grow", "shrink") else {})
        | ({"background": reading.background is None} if style == "chalk" else {})
        for scene, reading in zip(scenes, readings, strict=True)
    ]
    return {attribute: np.mean([each[attribute] for each in right]) for attribute in right[0]}


def turned_by(shape, angle, other):
    """The least turn, in degrees, that brings one angle to the other."""
    period = 2 * math.pi / SYMMETRIES[shape]
    return math.degrees(abs((angle - other + period / 2) % period - period / 2))


@pytest.mark.parametrize("style", STYLES)
def test_real_pictures_are_read(style):
    scenes, poses, frames = zip(*moments(style), strict=True)
    readings = [read(frame) for frame in frames]
    assert min(shares_right(scenes, readings, style).values()) >= 0.99
    for scene, at, reading in zip(scenes, poses, readings, strict=True):
        found = reading.pose
        assert 64 * math.dist((found.x, found.y), (at.x, at.y)) < 0.3
        assert found.radius == pytest.approx(at.radius, rel=0.03)
        assert turned_by(scene.shape, found.angle, at.angle) < 5


@pytest.mark.parametrize("style", STYLES)
def test_mildly_degraded_pictures_are_read(style):
    rng = np.random.default_rng(0)
    scenes, _, frames = zip(*moments(style)[::2], strict=True)
    readings = [read(degraded(frame, rng)) for frame in frames]
    assert min(shares_right(scenes, readings, style).values()) >= 0.97


@pytest.mark.parametrize("style", STYLES)
def test_frames_of_videos_are_read(style):
    scenes, readings = [], []
    for scene in sample_scenes(18, 5):
        mp4 = encode_mp4(render(scene, num_frames=4, height=64, width=64, style=style), fps=8.0)
        with av.open(io.BytesIO(mp4)) as container:
            readings += [read(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        scenes += [scene] * 4
    assert min(shares_right(scenes, readings, style).values()) >= 0.97


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 96), (96, 64)])
def test_pictures_of_other_sizes_are_read(height, width):
    found = read(paint("heart", "cyan", "dark blue", height=height, width=width))
    assert (found.shape, found.colour, found.background, found.style) == ("heart", "cyan", "dark blue", "plain")
    assert dataclasses.astuple(found.pose) == pytest.approx(dataclasses.astuple(AT), abs=0.03)


@pytest.mark.parametrize("shape", OUTLINES)
def test_a_shape_looks_the_same_as_often_as_is_said(shape):
    step = 2 * math.pi / SYMMETRIES[shape]
    upright, turned, between = (
        paint(shape, at=dataclasses.replace(AT, angle=angle)).astype(float) for angle in (0.0, step, step / 2)
    )
    assert np.abs(upright - turned).mean() < 0.2
    assert shape == "circle" or np.abs(upright - between).mean() > 2


def two_subjects():
    left, right = paint(at=Pose(-0.25, 0.0, 0.18, 0.0)), paint("circle", at=Pose(0.25, 0.05, 0.18, 0.0))
    return np.concatenate([left[:, :32], right[:, 32:]], axis=1)


def horizon():
    return np.where(np.arange(64)[:, None, None] < 30, np.uint8(BACKGROUNDS["white"]), np.uint8(COLOURS["green"]))


@pytest.mark.parametrize(
    "frame",
    [
        np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8),
        np.full((64, 64, 3), 128, np.uint8),
        two_subjects(),
        np.broadcast_to(horizon(), (64, 64, 3)),
        paint(at=Pose(0.0, 0.0, 0.03, 0.0)),
        paint("square", at=Pose(0.45, 0.0, 0.45, 0.0)),
    ],
    ids=["noise", "nothing", "two subjects", "a horizon", "a speck", "mostly outside"],
)
def test_where_there_is_no_single_subject_nothing_is_read(frame):
    assert read(frame) == Reading()
    assert read(frame).size is None


def test_a_small_stain_beside_the_subject_does_not_matter():
    frame = paint()
    frame[4:8, 4:8] = 200
    found = read(frame)
    assert (found.shape, found.colour, found.background) == ("star", "red", "black")


def test_halves_of_two_shapes_are_no_shape():
    side = np.arange(64)[:, None] > 64 * (AT.x + 0.5)
    found = []
    for one, other in itertools.permutations(OUTLINES, 2):
        for angle in (0.0, 0.3):
            halves = [paint(shape, at=dataclasses.replace(AT, angle=angle)) for shape in (one, other)]
            found.append(read(np.where(side, *halves)).shape)
    assert np.mean([shape is None for shape in found]) >= 0.9


def blob(rng):
    """Round, with lobes of random sizes."""
    y, x = np.mgrid[:64, :64] - 31.5
    lobes = sum(rng.normal(0, 0.16) * np.cos(k * np.arctan2(y, x) + 7 * rng.random()) for k in (2, 3, 4, 5))
    inside = np.clip(0.5 + 13 * (1 + lobes) - np.hypot(x, y), 0, 1)
    soft = ndimage.gaussian_filter(inside, 1)[..., None]
    return (15 + soft * (np.array(COLOURS["pink"]) - 15)).round().astype(np.uint8)


def test_blobs_are_no_shape_but_have_a_place():
    rng = np.random.default_rng(0)
    found = [read(blob(rng)) for _ in range(60)]
    assert np.mean([reading.shape is None for reading in found]) >= 0.9
    assert np.mean([reading.pose is not None for reading in found]) >= 0.9


@pytest.mark.parametrize("style", STYLES)
def test_half_way_between_two_colours_is_neither(style):
    for one, other in itertools.combinations(COLOURS, 2):
        half_way = tuple((a + b) // 2 for a, b in zip(COLOURS[one], COLOURS[other], strict=True))
        assert read(paint("cross", half_way, "black", style=style)).colour not in (one, other)
    assert read(paint("cross", (240, 165, 40), "black", style=style)).colour == "orange"
    assert read(paint("cross", (247, 177, 40), "black", style=style)).colour is None


def test_two_colours_in_one_subject_are_none():
    side = np.arange(64)[:, None] > 64 * (AT.x + 0.5)
    two = np.where(side, paint("square", "red"), paint("square", "cyan"))
    assert (read(two).shape, read(two).colour) == ("square", None)


@pytest.mark.parametrize("style", STYLES)
def test_a_new_colour_is_read_once_it_has_a_name(style):
    rng, colours = np.random.default_rng(0), COLOURS | {"brown": BROWN}
    for shape, background in zip(OUTLINES, itertools.cycle(["white", "beige", "dark blue"]), strict=False):
        assert math.dist(BROWN, BACKGROUNDS[background]) >= MIN_CONTRAST
        frame = degraded(paint(shape, BROWN, background, style=style), rng)
        assert (read(frame, colours=colours).colour, read(frame).colour) == ("brown", None)
        known = degraded(paint(shape, "orange", "black", style=style), rng)
        assert read(known, colours=colours).colour == "orange"


def test_a_size_is_the_nearest_by_ratio_and_none_far_from_all():
    def size(radius):
        return Reading(pose=dataclasses.replace(AT, radius=radius)).size

    for name, radius in SIZES.items():
        assert size(radius) == name
    for (name, radius), (larger_name, larger) in itertools.pairwise(sorted(SIZES.items(), key=lambda item: item[1])):
        middle = math.sqrt(radius * larger)
        assert (size(middle * 0.99), size(middle * 1.01)) == (name, larger_name)
    assert size(0.75 * min(SIZES.values())) is None
    assert size(1.3 * max(SIZES.values())) is None


def test_attributes_are_compared_one_by_one():
    scene = Scene("star", "red", max(SIZES, key=SIZES.__getitem__), "black", "still")
    at = dataclasses.replace(AT, radius=SIZES[scene.size])
    assert dataclasses.astuple(matches(read(paint(at=at)), scene)) == (True,) * 4
    other = matches(read(paint("heart", background="white", at=at)), scene)
    assert dataclasses.asdict(other) == {"shape": False, "colour": True, "size": True, "background": False}
    assert not any(dataclasses.astuple(matches(Reading(), scene)))


@pytest.mark.parametrize(
    "frame", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3)), np.zeros((1, 64, 64, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(frame):
    with pytest.raises(ValueError, match=r"must be \(h w 3\) uint8"):
        read(frame)
