"""What the pixels show is what the scene and its caption say, in every style."""

import itertools
import math

import numpy as np
import pytest

from animatediff.sprites.scenes.drawing import STYLES, draw, render
from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, MOTIONS, SIZES, Pose, Scene, is_visible, pose

SIDE = 192
LINE = 7  # pixels of SIDE: the width of the styles' lines


def scene(motion="still", **changes):
    return Scene(**{"shape": "star", "colour": "red", "size": "small", "background": "black"} | changes, motion=motion)


def shown(frames, of):
    """How much of the shape's colour each pixel has, from the pixels alone. (f h w)."""
    colour, background = np.array(COLOURS[of.colour]), np.array(BACKGROUNDS[of.background])
    channel = np.abs(colour - background).argmax()
    return (frames[..., channel].astype(float) - background[channel]) / (colour - background)[channel]


def measure(of, *, num_frames=5, height=64, width=64):
    """Centroid (f 2) from the picture's centre and area (f,), in short sides."""
    mask = shown(render(of, num_frames=num_frames, height=height, width=width), of)
    area = mask.sum((1, 2))
    x = (mask.sum(1) * (np.arange(width) + 0.5)).sum(1) / area - width / 2
    y = (mask.sum(2) * (np.arange(height) + 0.5)).sum(1) / area - height / 2
    short = min(height, width)
    return np.stack([x, y], axis=1) / short, area / short**2


def depths(shape, at):
    """How many pixels of SIDE x SIDE inside the outline each pixel's centre lies, from points along it. (h w)."""
    white = draw(shape, (255, 255, 255), (0, 0, 0), at, SIDE, SIDE)[..., 0]
    vertices = OUTLINES[shape].vertices
    shares = np.linspace(0, 1, 1 + 960 // len(vertices))[:, None, None]
    points = (shares * vertices + (1 - shares) * np.roll(vertices, 1, axis=0)).reshape(-1, 2)  # n 2, x y
    turned = points @ [[math.cos(at.angle), math.sin(at.angle)], [-math.sin(at.angle), math.cos(at.angle)]]
    outline = (turned * at.radius + (at.x, at.y) + 0.5) * SIDE - 0.5
    result = np.zeros(white.shape)
    for row, column in np.argwhere(white > 127):
        result[row, column] = np.hypot(outline[:, 0] - column, outline[:, 1] - row).min()
    return result


def styled(style, shape="star", background="black", colour="orange", x=0.05, y=-0.08):
    """A large still picture (h w 3) as floats, and the depths of its pixels inside the shape (h w)."""
    at = Pose(x, y, radius=0.35, angle=0.2)
    picture = draw(shape, COLOURS[colour], BACKGROUNDS[background], at, SIDE, SIDE, style)
    return picture.astype(float), depths(shape, at)


def colours_of(pixels):
    return {tuple(pixel) for pixel in pixels}


@pytest.mark.parametrize(
    ("motion", "direction"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
@pytest.mark.parametrize("size", SIZES)
def test_translation_goes_where_its_caption_says(motion, direction, size):
    steps = np.diff(measure(scene(motion, size=size, x=0.7, y=-0.4))[0], axis=0)
    assert (steps @ direction > 0.07).all()  # 4.5 pixels of 64 from each of 5 frames to the next
    assert np.abs(steps @ direction[::-1]).max() < 0.005


def test_growing_and_shrinking_change_the_area_alone():
    grown, shrunk = measure(scene("grow")), measure(scene("shrink"))
    assert (np.diff(grown[1]) > 0).all()
    assert grown[1][-1] > 4 * grown[1][0]
    np.testing.assert_allclose(shrunk[1], grown[1][::-1], rtol=0.01)
    assert np.ptp(grown[0], axis=0).max() < 0.005


def test_bouncing_goes_up_and_down_again():
    height = -measure(scene("bounce"), num_frames=33)[0][:, 1]
    turns = np.sign(np.diff(height))
    assert (np.diff(turns[turns != 0]) != 0).sum() == 3  # up, down, up, down
    assert np.ptp(height) > 0.45


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
    mask = shown(render(tilted, num_frames=1, height=64, width=64)[0], tilted)
    partial = ((mask > 0.1) & (mask < 0.9)).sum()
    outline = (np.abs(np.diff(mask > 0.5, axis=0)).sum() + np.abs(np.diff(mask > 0.5, axis=1)).sum()) / 2
    assert partial > 0.5 * outline
    assert len(np.unique(mask.round(1))) > 6
    assert mask.min() == 0
    assert mask.max() == 1


def test_edges_cover_what_fine_sampling_covers():
    for shape in OUTLINES:
        large = scene(shape=shape, size="large")
        fine = shown(render(large, num_frames=1, height=480, width=480)[0], large)
        coarse = shown(render(large, num_frames=1, height=48, width=48)[0], large)
        averaged = fine.reshape(48, 10, 48, 10).mean((1, 3))
        assert np.abs(coarse - averaged).mean() < 0.004, shape
        assert np.abs(coarse - averaged).max() < 0.4, shape


def test_more_frames_are_a_smoother_version_of_the_same_motion():
    moving = scene("bounce", phase=0.2)
    few = render(moving, num_frames=5, height=32, width=32)
    many = render(moving, num_frames=9, height=32, width=32)
    np.testing.assert_array_equal(many[::2], few)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 53), (64, 96), (120, 48), (1, 1)])
def test_any_resolution(height, width, style):
    frames = render(scene("left", size="large"), num_frames=2, height=height, width=width, style=style)
    assert frames.shape == (2, height, width, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("size", [(48, 48), (48, 96), (192, 128)])
def test_other_resolutions_show_the_same_clip(size):
    grown = scene("grow", x=0.3, y=0.8)
    centres, areas = measure(grown, height=size[0], width=size[1])
    reference = measure(grown)
    np.testing.assert_allclose(centres, reference[0], atol=0.01)
    np.testing.assert_allclose(areas, reference[1], rtol=0.06)


@pytest.mark.parametrize("style", STYLES)
def test_other_resolutions_show_the_same_style(style):
    one = scene(size="large", x=0.5)
    reference = render(one, num_frames=1, height=64, width=64, style=style)[0].astype(float)
    fine = render(one, num_frames=1, height=256, width=512, style=style)[0].astype(float)
    averaged = fine.reshape(64, 4, 128, 4, 3).mean((1, 3))
    assert np.abs(averaged[:, 32:96] - reference).mean() < 1.5


def test_sizes_and_colours_can_be_told_apart():
    areas = [measure(scene(size=size), num_frames=1)[1][0] for size in ("small", "large")]
    assert areas[0] * 1.7 < areas[1]
    centre = render(scene(colour="cyan", size="large"), num_frames=1, height=33, width=33)[0, 16, 16]
    assert tuple(centre) == COLOURS["cyan"]


def test_no_frames_are_refused():
    with pytest.raises(ValueError, match="positive"):
        render(scene(), num_frames=0, height=8, width=8)


def test_plain_is_the_default_and_has_two_flat_colours():
    one = scene("bounce")
    plain = render(one, num_frames=2, height=64, width=64, style="plain")
    np.testing.assert_array_equal(render(one, num_frames=2, height=64, width=64), plain)
    picture, depth = styled("plain")
    assert colours_of(picture[depth > 2]) == {COLOURS["orange"]}
    assert BACKGROUNDS["black"] in colours_of(picture[depth == 0])
    assert not np.array_equal(draw("star", (1, 2, 3), (200, 0, 0), pose(one, 0), 64, 64), plain[0])


def test_styles_differ():
    pictures = [render(scene(), num_frames=1, height=64, width=64, style=style).tobytes() for style in STYLES]
    assert len(set(pictures)) == len(STYLES) == 3


@pytest.mark.parametrize("shape", OUTLINES)
def test_cel_has_ink_all_round_and_two_tones_within(shape):
    picture, depth = styled("cel", shape)
    (ink,) = colours_of(picture[(depth > 2) & (depth < LINE - 2)])
    assert max(ink) < 40
    light, dark = sorted(colours_of(picture[depth > LINE + 2]), reverse=True)
    assert light == COLOURS["orange"]
    np.testing.assert_allclose(dark, np.array(light) * 0.68, atol=0.5)


@pytest.mark.parametrize("place", [(-0.1, -0.1), (0.1, 0.1), (0.1, -0.1)])
def test_cel_is_lit_from_the_upper_left_wherever_the_shape_is(place):
    picture, depth = styled("cel", "circle", x=place[0], y=place[1])
    is_light = (picture == COLOURS["orange"]).all(axis=-1)
    is_dark = (depth > LINE + 2) & ~is_light
    assert (np.argwhere(is_light).mean(axis=0) < np.argwhere(is_dark).mean(axis=0) - 10).all()
    assert 0.5 < is_light.sum() / is_dark.sum() < 2


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_cel_ink_shows_on_the_paper_of_every_background(background):
    picture, depth = styled("cel", background=background)
    ink = picture[(depth > 2) & (depth < LINE - 2)][0]
    paper = picture[0, 0]
    assert math.dist(ink, paper) > 100
    assert (paper >= BACKGROUNDS[background]).all()


def test_chalk_has_the_same_blackboard_for_every_background():
    pictures = [styled("chalk", background=background)[0] for background in BACKGROUNDS]
    assert all((picture == pictures[0]).all() for picture in pictures)
    assert pictures[0][0, 0].max() < 80


@pytest.mark.parametrize("shape", OUTLINES)
def test_chalk_has_a_pale_line_all_round_and_slanting_stripes_within(shape):
    picture, depth = styled("chalk", shape)
    (line,) = colours_of(picture[(depth > 2) & (depth < LINE - 2)])
    assert (np.array(line) > COLOURS["orange"]).all()
    within = depth > LINE + 2
    slants = np.add.outer(np.arange(SIDE), np.arange(SIDE))
    brightness = {slant: picture[within & (slants == slant)].mean(axis=-1) for slant in np.unique(slants[within])}
    assert max(np.ptp(stripe) for stripe in brightness.values()) == 0
    means = np.array([stripe.mean() for stripe in brightness.values()])
    assert np.ptp(means) > 25
    assert means.max() < np.mean(line)


@pytest.mark.parametrize("shape", OUTLINES)
@pytest.mark.parametrize("inset", [0.02, 0.05])
def test_an_inset_is_evenly_wide_at_inward_corners_too(shape, inset):
    at = Pose(0.03, 0.05, radius=0.42, angle=0.3)
    depth = depths(shape, at)
    inner = coverage(
        OUTLINES[shape], centre=(at.x, at.y), radius=at.radius, angle=at.angle, height=SIDE, width=SIDE, inset=inset
    )
    assert depth[inner > 0.5].min() > inset * SIDE - 0.1
    assert depth[inner < 0.5].max() < inset * SIDE + 0.1


@pytest.mark.parametrize("shape", OUTLINES)
def test_deeper_insets_lie_within_shallower_ones(shape):
    where = {"centre": (0.0, 0.0), "radius": 0.3, "angle": 0.0, "height": 48, "width": 48}
    masks = [coverage(OUTLINES[shape], **where, inset=inset) for inset in (0.0, 0.01, 0.03, 0.06, 0.5)]
    assert all((outer >= inner).all() for outer, inner in itertools.pairwise(masks))
    assert masks[3].max() == 1
    assert masks[4].max() == 0  # deeper than the shape is
