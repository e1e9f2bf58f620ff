"""What the pixels show is what the scene and its caption say."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from animatediff.sprites.shapes import OUTLINES
from animatediff.sprites.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SIZES,
    Scene,
    caption,
    caption_words,
    is_visible,
    pose,
    render,
    sample_scenes,
)


def scene(motion="still", **changes):
    return Scene(**{"shape": "star", "colour": "red", "size": "medium", "background": "black"} | changes, motion=motion)


def coverage(frames, of):
    """How much of the shape's colour each pixel has, from the pixels alone. (f h w)."""
    colour, background = np.array(COLOURS[of.colour]), np.array(BACKGROUNDS[of.background])
    channel = np.abs(colour - background).argmax()
    return (frames[..., channel].astype(float) - background[channel]) / (colour - background)[channel]


def measure(of, *, num_frames=5, height=64, width=64):
    """Centroid (f 2) from the picture's centre and area (f,), in short sides."""
    mask = coverage(render(of, num_frames=num_frames, height=height, width=width), of)
    area = mask.sum((1, 2))
    x = (mask.sum(1) * (np.arange(width) + 0.5)).sum(1) / area - width / 2
    y = (mask.sum(2) * (np.arange(height) + 0.5)).sum(1) / area - height / 2
    short = min(height, width)
    return np.stack([x, y], axis=1) / short, area / short**2


@pytest.mark.parametrize(
    ("motion", "direction"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
@pytest.mark.parametrize("size", SIZES)
def test_translation_goes_where_its_caption_says(motion, direction, size):
    steps = np.diff(measure(scene(motion, size=size, x=0.7, y=-0.4))[0], axis=0)
    assert (steps @ direction > 0.08).all()  # 5 pixels of 64 from each of 5 frames to the next
    assert np.abs(steps @ direction[::-1]).max() < 0.005


def test_growing_and_shrinking_change_the_area_alone():
    grown, shrunk = measure(scene("grow")), measure(scene("shrink"))
    assert (np.diff(grown[1]) > 0).all()
    assert grown[1][-1] > 5 * grown[1][0]
    np.testing.assert_allclose(shrunk[1], grown[1][::-1], rtol=0.01)
    assert np.ptp(grown[0], axis=0).max() < 0.005


def test_bouncing_goes_up_and_down_again():
    height = -measure(scene("bounce"), num_frames=33)[0][:, 1]
    turns = np.sign(np.diff(height))
    assert (np.diff(turns[turns != 0]) != 0).sum() == 3  # up, down, up, down
    assert np.ptp(height) > 0.5


@pytest.mark.parametrize("shape", [s for s in OUTLINES if is_visible(s, "red", "black", "spin")])
def test_spinning_changes_the_picture_and_not_the_place(shape):
    spinning = scene("spin", shape=shape, phase=0.3)
    centres, areas = measure(spinning, num_frames=17)
    assert np.ptp(centres, axis=0).max() < 0.01
    assert areas.std() < 0.03 * areas.mean()
    frames = render(spinning, num_frames=17, height=64, width=64).astype(float)
    assert (np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) > 0.3).all()


def test_still_stays_still():
    frames = render(scene("still", x=0.5), num_frames=4, height=32, width=32)
    assert (frames == frames[0]).all()


@pytest.mark.parametrize("shape", OUTLINES)
def test_the_pixels_lie_where_the_ground_truth_says(shape):
    moving = scene("left", shape=shape, size="large", y=0.5)
    centres, _ = measure(moving, num_frames=3, height=96, width=96)
    truth = [(p.x, p.y) for p in (pose(moving, t) for t in (0.0, 0.5, 1.0))]
    np.testing.assert_allclose(centres, truth, atol=0.006)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("corner", [(-1, -1), (1, 1)])
def test_the_shape_stays_inside_the_picture(motion, corner):
    shape = "square" if motion == "spin" else "circle"
    clip = render(
        scene(motion, shape=shape, size="large", x=corner[0], y=corner[1], phase=0.1), num_frames=9, height=64, width=64
    )
    border = np.concatenate([clip[:, 0], clip[:, -1], clip[:, :, 0], clip[:, :, -1]], axis=1)
    assert (border == BACKGROUNDS["black"]).all()


@pytest.mark.parametrize("shape", OUTLINES)
def test_edges_are_antialiased(shape):
    tilted = scene("spin" if shape != "circle" else "still", shape=shape, size="large", phase=0.05)
    mask = coverage(render(tilted, num_frames=1, height=64, width=64)[0], tilted)
    partial = ((mask > 0.1) & (mask < 0.9)).sum()
    outline = (np.abs(np.diff(mask > 0.5, axis=0)).sum() + np.abs(np.diff(mask > 0.5, axis=1)).sum()) / 2
    assert partial > 0.5 * outline
    assert len(np.unique(mask.round(1))) > 6
    assert mask.min() == 0
    assert mask.max() == 1


def test_edges_cover_what_fine_sampling_covers():
    for shape in OUTLINES:
        large = scene(shape=shape, size="large")
        fine = coverage(render(large, num_frames=1, height=480, width=480)[0], large)
        coarse = coverage(render(large, num_frames=1, height=48, width=48)[0], large)
        averaged = fine.reshape(48, 10, 48, 10).mean((1, 3))
        assert np.abs(coarse - averaged).mean() < 0.004, shape
        assert np.abs(coarse - averaged).max() < 0.4, shape


def test_more_frames_are_a_smoother_version_of_the_same_motion():
    moving = scene("bounce", phase=0.2)
    few = render(moving, num_frames=5, height=32, width=32)
    many = render(moving, num_frames=9, height=32, width=32)
    np.testing.assert_array_equal(many[::2], few)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 53), (64, 96), (120, 48), (1, 1)])
def test_any_resolution(height, width):
    frames = render(scene("left", size="large"), num_frames=2, height=height, width=width)
    assert frames.shape == (2, height, width, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (192, 128)])
def test_other_resolutions_show_the_same_clip(size):
    grown = scene("grow", x=0.3, y=0.8)
    centres, areas = measure(grown, height=size[0], width=size[1])
    reference = measure(grown)
    np.testing.assert_allclose(centres, reference[0], atol=0.01)
    np.testing.assert_allclose(areas, reference[1], rtol=0.06)


def test_sizes_and_colours_can_be_told_apart():
    areas = [measure(scene(size=size), num_frames=1)[1][0] for size in SIZES]
    assert areas[0] * 1.7 < areas[1]
    assert areas[1] * 1.7 < areas[2]
    centre = render(scene(colour="cyan", size="large"), num_frames=1, height=33, width=33)[0, 16, 16]
    assert tuple(centre) == COLOURS["cyan"]


def test_caption():
    one = scene("left", size="large", background="dark blue")
    assert caption(one) == "a large red star moving left on a dark blue background"
    assert caption(one, with_motion=False) == "a large red star on a dark blue background"


def test_caption_words_are_those_of_the_captions():
    assert {word for s in sample_scenes(900, 0) for word in caption(s).split()} == set(caption_words())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": "blob"}, "shape must be one of circle, square"),
        ({"motion": "sideways"}, "motion must be one of left, right"),
        ({"x": 1.5}, "x and y"),
        ({"phase": 1.0}, "phase"),
        ({"shape": "circle", "motion": "spin"}, "would not show"),
        ({"colour": "pink", "background": "beige"}, "would not show"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(scene(), **changes)


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="positive"):
        render(scene(), num_frames=0, height=8, width=8)


def test_samples_are_the_seeds_and_a_shorter_list_is_a_prefix():
    assert sample_scenes(40, 3) == sample_scenes(40, 3)
    assert sample_scenes(40, 3)[:13] == sample_scenes(13, 3)
    assert sample_scenes(40, 3) != sample_scenes(40, 4)


def test_samples_cover_all_motions_evenly_and_no_caption_twice():
    scenes = sample_scenes(1003, 0)
    counts = Counter(s.motion for s in scenes)
    assert set(counts) == set(MOTIONS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({caption(s) for s in scenes}) == len(scenes)
    for field, names in {"shape": OUTLINES, "colour": COLOURS, "background": BACKGROUNDS, "size": SIZES}.items():
        shares = Counter(getattr(s, field) for s in scenes)
        assert min(shares[name] for name in names) > 0.6 * 1003 / len(names)


def test_samples_beyond_the_last_caption_still_differ():
    scenes = sample_scenes(9 * 840, 0)
    assert len(set(scenes)) == len(scenes)
