"""The captions of stills say what their pictures show, told from the pixels alone, and nothing else."""

from collections import Counter

import numpy as np
import pytest

from animatediff.sprites.scenes.drawing import SAMPLE_SIZE
from animatediff.sprites.scenes.shapes import OUTLINES, coverage
from animatediff.sprites.scenes.stills import draw_stills
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, HELD_OUT, MOTIONS, SIZES, caption_words

NUM = 400


@pytest.fixture(scope="module")
def stills():
    return draw_stills(NUM, seed=0)


def colour_of(stills, i):
    """The commonest colour but for the background's."""
    counts = Counter(map(tuple, stills.pixels[i].reshape(-1, 3).tolist()))
    (ground, _), (colour, _) = counts.most_common(2)
    assert ground == tuple(stills.pixels[i, 0, 0])
    return colour


def background_of(picture):
    (name,) = [name for name, rgb in BACKGROUNDS.items() if rgb == tuple(picture[0, 0])]
    return name


def shown(stills, i):
    """How much of the shape each pixel has. (h w)."""
    ground, colour = stills.pixels[i, 0, 0].astype(float), np.array(colour_of(stills, i), float)
    return (stills.pixels[i] - ground) @ (colour - ground) / ((colour - ground) @ (colour - ground))


def radius_of(stills, i, shape):
    """In short sides, from the area."""
    plain = {"centre": (0.0, 0.0), "angle": 0.0, "height": SAMPLE_SIZE, "width": SAMPLE_SIZE}
    area = coverage(OUTLINES[shape], radius=0.25, **plain).sum()
    return 0.25 * (shown(stills, i).sum() / area) ** 0.5


def said(stills, i):
    """(shape, colour or None, size or None, motion or None) that the caption names, its background taken out."""
    rest = stills.captions[i].replace(background_of(stills.pixels[i]), "", 1)
    words = rest.replace(",", " ").split()

    def named(names):
        found = [name for name in names if name in words]
        assert len(found) <= 1
        return found[0] if found else None

    motions = [motion for motion, doing in MOTIONS.items() if doing in rest]
    assert len(motions) <= 1
    return named(OUTLINES), named(COLOURS), named(SIZES), motions[0] if motions else None


def test_each_still_is_one_picture_with_one_caption(stills):
    assert stills.pixels.shape == (NUM, SAMPLE_SIZE, SAMPLE_SIZE, 3)
    assert stills.pixels.dtype == np.uint8
    assert len(stills.captions) == NUM
    assert stills.centres.shape == (NUM, 2)


def test_captions_name_the_background_that_the_picture_has(stills):
    for i in range(NUM):
        others = [name for name in BACKGROUNDS if name != background_of(stills.pixels[i])]
        assert background_of(stills.pixels[i]) in stills.captions[i]
        assert not any(f"on {name}" in stills.captions[i] for name in others)


def test_captions_say_a_size_only_of_shapes_that_have_it(stills):
    sizes = [said(stills, i)[2] for i in range(NUM)]
    for i, size in enumerate(sizes):
        if size:
            assert radius_of(stills, i, said(stills, i)[0]) == pytest.approx(SIZES[size], rel=0.04)
    assert set(sizes) == {*SIZES, None}


def test_captions_say_no_size_of_shapes_that_grow_or_shrink(stills):
    kept = [said(stills, i)[2] for i in range(NUM) if said(stills, i)[3] in ("grow", "shrink")]
    assert kept
    assert set(kept) == {None}
    unsized = [radius_of(stills, i, said(stills, i)[0]) for i in range(NUM) if said(stills, i)[2] is None]
    assert min(unsized) < 0.15  # below every size's own
    assert max(unsized) > 0.33


def test_captions_say_a_colour_only_of_shapes_that_have_it(stills):
    for i in range(NUM):
        colour = said(stills, i)[1]
        if colour:
            assert colour_of(stills, i) == COLOURS[colour]
        else:
            assert colour_of(stills, i) not in COLOURS.values()


def test_odd_colours_show_on_their_background():
    odd = draw_stills(100, seed=1, odd_colours=1.0)
    assert {said(odd, i)[1] for i in range(100)} == {None}
    for i in range(100):
        assert np.linalg.norm(np.subtract(colour_of(odd, i), odd.pixels[i, 0, 0].astype(int))) >= 100


def test_the_share_of_odd_colours_is_the_callers(stills):
    assert 0.1 < np.mean([said(stills, i)[1] is None for i in range(NUM)]) < 0.2
    named = draw_stills(100, seed=1, odd_colours=0.0)
    assert None not in {said(named, i)[1] for i in range(100)}


def test_no_caption_names_a_held_out_pair(stills):
    assert not {said(stills, i)[:2] for i in range(NUM)} & HELD_OUT


def test_some_captions_say_the_motion(stills):
    motions = [said(stills, i)[3] for i in range(NUM)]
    assert set(motions) == {*MOTIONS, None}
    assert 0.2 < np.mean([motion is not None for motion in motions]) < 0.4


def test_captions_are_worded_in_every_way_and_with_known_words_alone(stills):
    beginnings = {"on a ", "a picture ", "a ", ""}
    assert all(any(text.startswith(beginning) for text in stills.captions) for beginning in beginnings)
    assert any(" background" not in text for text in stills.captions)
    assert {word for text in stills.captions for word in text.replace(",", "").split()} <= set(caption_words())


def test_centres_lie_inside_the_shapes_and_amid_their_pixels(stills):
    places = np.arange(SAMPLE_SIZE) + 0.5
    for i in range(NUM):
        mask = shown(stills, i)
        column, row = stills.centres[i].astype(int)
        assert mask[row, column] > 0.5
        amid = ((mask.sum(0) @ places) / mask.sum(), (mask.sum(1) @ places) / mask.sum())
        np.testing.assert_allclose(stills.centres[i], amid, atol=0.6)


def test_a_seed_gives_the_same_pictures_and_a_shorter_set_is_a_prefix(stills):
    again, shorter, other = draw_stills(NUM, seed=0), draw_stills(50, seed=0), draw_stills(50, seed=1)
    np.testing.assert_array_equal(again.pixels, stills.pixels)
    assert again.captions == stills.captions
    np.testing.assert_array_equal(again.centres, stills.centres)
    np.testing.assert_array_equal(shorter.pixels, stills.pixels[:50])
    assert shorter.captions == stills.captions[:50]
    assert (other.pixels != shorter.pixels).any()
    assert other.captions != shorter.captions


def test_pictures_are_of_random_moments_not_of_beginnings_alone(stills):
    going_left = [stills.centres[i, 0] for i in range(NUM) if said(stills, i)[3] == "left"]
    assert min(going_left) < SAMPLE_SIZE / 2 < max(going_left)


def test_styles_are_drawn_from_evenly_and_show_the_same_places(stills):
    mixed = draw_stills(200, seed=0, styles=("plain", "chalk"))
    is_plain = (mixed.pixels == stills.pixels[:200]).all(axis=(1, 2, 3))
    assert 0.35 < is_plain.mean() < 0.65
    assert len({tuple(picture[0, 0]) for picture in mixed.pixels[~is_plain]}) == 1  # the blackboard
    np.testing.assert_array_equal(mixed.centres, stills.centres[:200])


def test_more_shapes_spin_on_request_and_their_captions_say_so(stills):
    turned = draw_stills(200, seed=0, turned=0.5)
    spinning = np.array([said(turned, i)[3] == "spin" for i in range(200)])
    assert 0.35 < spinning.mean() < 0.6
    assert "circle" not in {said(turned, i)[0] for i in np.flatnonzero(spinning)}
    upright = np.array([said(stills, i)[3] != "spin" for i in range(200)])
    assert (turned.pixels[spinning & upright] != stills.pixels[:200][spinning & upright]).any(axis=(1, 2, 3)).all()
