"""Scenes, their motion and their captions say the same, and samples of them are a data set."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.sprites.scenes.shapes import OUTLINES
from animatediff.sprites.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    MOTIONS,
    NUM_WORDINGS,
    SIZES,
    Said,
    Scene,
    caption,
    caption_words,
    is_visible,
    parse_caption,
    pose,
    sample_scenes,
)


def scene(motion="still", **changes):
    return Scene(**{"shape": "star", "colour": "red", "size": "small", "background": "black"} | changes, motion=motion)


@st.composite
def scenes(draw):
    names = [draw(st.sampled_from(list(known))) for known in (OUTLINES, COLOURS, SIZES, BACKGROUNDS, MOTIONS)]
    if not is_visible(names[0], names[1], names[3], names[4]):
        names[0], names[1], names[3] = "star", "red", "black"
    place = st.floats(-1, 1)
    return Scene(*names, x=draw(place), y=draw(place), phase=draw(st.floats(0, 1, exclude_max=True)))


@given(of=scenes(), time=st.floats(0, 1))
def test_the_circle_that_holds_the_shape_never_leaves_the_picture(of, time):
    at = pose(of, time)
    assert max(abs(at.x), abs(at.y)) + at.radius < 0.5
    assert at.radius > 0.1  # 6 pixels of 64


@given(of=scenes(), time=st.floats(0, 1))
def test_the_size_is_the_captions_unless_it_changes_on_the_way(of, time):
    if of.motion in ("grow", "shrink"):
        assert pose(of, 0.5).radius == SIZES[of.size]
    else:
        assert pose(of, time).radius == SIZES[of.size]


def test_a_caption_has_several_wordings():
    one = scene("left", size="large", background="dark blue")
    assert [caption(one, wording=i) for i in range(NUM_WORDINGS)] == [
        "a large red star moving left on a dark blue background",
        "a picture of a large red star moving left on a dark blue background",
        "large red star moving left, dark blue background",
        "a red star, large, moving left on dark blue",
        "on a dark blue background, a large red star moving left",
    ]
    assert caption(one) == caption(one, wording=0)


def test_what_a_caption_leaves_out_leaves_no_gap():
    one = scene("left", size="large", colour="orange", background="dark blue")
    told = {"with_size": False, "with_motion": False}
    assert [caption(one, wording=i, **told) for i in range(NUM_WORDINGS)] == [
        "an orange star on a dark blue background",
        "a picture of an orange star on a dark blue background",
        "orange star, dark blue background",
        "an orange star, on dark blue",
        "on a dark blue background, an orange star",
    ]
    assert caption(one, colour="", with_size=False, wording=3) == "a star, moving left on dark blue"


@given(
    of=scenes(),
    wording=st.integers(0, NUM_WORDINGS - 1),
    told=st.fixed_dictionaries(
        {"with_size": st.booleans(), "with_motion": st.booleans(), "colour": st.sampled_from([None, "", "<odd>"])}
    ),
)
def test_a_caption_says_all_that_it_is_told_to_and_no_more(of, wording, told):
    said = caption(of, wording=wording, **told)
    words = said.replace(",", "").split()
    assert words.count(of.shape) == 1
    assert words.count(of.colour) == (told["colour"] is None) + of.background.split().count(of.colour)
    assert ("<odd>" in said) == (told["colour"] == "<odd>")
    assert [word for word in words if word in SIZES] == [of.size] * told["with_size"]
    assert [motion for motion in MOTIONS.values() if motion in said] == [MOTIONS[of.motion]] * told["with_motion"]
    assert said.count(of.background) == 1
    assert said == " ".join(said.split())
    assert not any(blemish in f" {said}" for blemish in (" ,", ",,", " a orange", " an s"))


def test_caption_words_are_those_of_the_captions():
    captions = [caption(s, wording=i % NUM_WORDINGS) for i, s in enumerate(sample_scenes(1800, 0))]
    captions += [caption(s, with_size=False) for s in sample_scenes(90, 0)]
    assert {word for said in captions for word in said.replace(",", "").split()} == set(caption_words())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": "blob"}, "shape must be one of circle, square"),
        ({"size": "medium"}, "size must be one of small, large"),
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


@pytest.mark.parametrize("held_out", [False, True])
def test_samples_are_the_seeds_and_a_shorter_list_is_a_prefix(held_out):
    assert sample_scenes(40, 3, held_out=held_out) == sample_scenes(40, 3, held_out=held_out)
    assert sample_scenes(40, 3, held_out=held_out)[:13] == sample_scenes(13, 3, held_out=held_out)
    assert sample_scenes(40, 3, held_out=held_out) != sample_scenes(40, 4, held_out=held_out)


def test_samples_cover_all_motions_evenly_and_no_caption_twice():
    sampled = sample_scenes(1003, 0)
    counts = Counter(s.motion for s in sampled)
    assert set(counts) == set(MOTIONS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({caption(s) for s in sampled}) == len(sampled)
    for field, names in {"shape": OUTLINES, "colour": COLOURS, "background": BACKGROUNDS, "size": SIZES}.items():
        shares = Counter(getattr(s, field) for s in sampled)
        assert min(shares[name] for name in names) > 0.6 * 1003 / len(names)


def test_samples_beyond_the_last_caption_still_differ():
    sampled = sample_scenes(9 * 500, 0)  # a motion has 482 captions at most
    assert len({caption(s) for s in sampled}) < len(sampled)
    assert len(set(sampled)) == len(sampled)


def test_held_out_pairs_are_never_sampled_and_are_all_there_when_asked_for():
    assert not {(s.shape, s.colour) for s in sample_scenes(9 * 500, 0)} & HELD_OUT
    held_out = sample_scenes(300, 0, held_out=True)
    assert {(s.shape, s.colour) for s in held_out} == HELD_OUT
    assert {s.motion for s in held_out} == set(MOTIONS)


def test_each_shape_has_one_held_out_colour_which_other_shapes_show():
    assert sorted(shape for shape, _ in HELD_OUT) == sorted(OUTLINES)
    assert len({colour for _, colour in HELD_OUT}) == len(HELD_OUT)


def test_a_bounce_touches_the_floor_twice_and_begins_where_its_phase_says():
    heights = np.array([-pose(scene("bounce"), time).y for time in np.linspace(0, 1, 201)])
    assert (heights <= heights.min() + 1e-9).sum() == 3  # at the beginning, half way and at the end
    assert heights.argmax() in (50, 150)
    assert pose(scene("bounce", phase=0.5), 0.0).y == pytest.approx(-heights.max())


@given(of=scenes(), with_size=st.booleans(), with_motion=st.booleans(), wording=st.integers(0, NUM_WORDINGS - 1))
def test_captions_are_read_back_in_every_wording(of, with_size, with_motion, wording):
    said = parse_caption(caption(of, with_size=with_size, with_motion=with_motion, wording=wording))
    size, motion = of.size if with_size else None, of.motion if with_motion else None
    assert said == Said(of.shape, of.colour, size, of.background, motion)


def test_a_text_without_the_world_s_words_says_nothing():
    assert parse_caption("") == parse_caption("a bluebird, redwood and starfish") == Said()
