"""Clips whose truth is known are measured right, whatever their style, and follow their own motion alone."""

import dataclasses
import math

import numpy as np
import pytest

from animatediff.sprites.readings.clips import follows, measure_clip, measure_readings
from animatediff.sprites.readings.pictures import Reading
from animatediff.sprites.readings.shape import SYMMETRIES
from animatediff.sprites.scenes.drawing import STYLES, draw, render
from animatediff.sprites.scenes.shapes import OUTLINES
from animatediff.sprites.scenes.world import BACKGROUNDS, COLOURS, MOTIONS, Pose, Scene, pose, sample_scenes

BLANK = np.full((64, 64, 3), 128, np.uint8)


def scene(motion="left", **changes):
    look = {"shape": "star", "colour": "red", "size": "small", "background": "black"}
    return Scene(**look | changes, motion=motion)


def clip(of, *, num_frames=16, style="plain"):
    return render(of, num_frames=num_frames, height=64, width=64, style=style)


def readings(poses, shape="star"):
    return [Reading(shape, "red", "black", "plain", at) for at in poses]


def followed(measure):
    return [motion for motion in MOTIONS if follows(measure, motion)]


def test_each_clip_follows_its_own_motion_alone():
    scenes = sample_scenes(45, 11)
    right = [followed(measure_clip(clip(scene))) == [scene.motion] for scene in scenes]
    assert np.mean(right) >= 0.99


@pytest.mark.parametrize("style", STYLES)
def test_the_part_of_a_clip_that_training_sees_follows_its_motion(style):
    for motion in MOTIONS:
        of = scene(motion, y=0.4, phase=0.6, shape="triangle")
        at = [pose(of, time) for time in np.linspace(0.08, 0.92, 16).tolist()]
        frames = [draw(of.shape, COLOURS[of.colour], BACKGROUNDS[of.background], p, 64, 64, style) for p in at]
        assert followed(measure_clip(np.stack(frames))) == [motion]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("motion", ["right", "bounce", "grow", "spin", "still"])
def test_measures_are_the_scenes_own(motion, style):
    of = scene(motion, x=0.3, y=-0.5, phase=0.2)
    at = [pose(of, time) for time in np.linspace(0, 1, 16).tolist()]
    found = measure_clip(clip(of, style=style))
    places = 64 * np.array([(p.x, p.y) for p in at])
    assert found.keeps_itself
    assert found.displacement == pytest.approx(np.linalg.norm(places[:, None] - places, axis=-1).max(), abs=1)
    assert found.rotation == pytest.approx(math.degrees(at[-1].angle - at[0].angle), abs=8)
    assert found.scaling == pytest.approx(max(p.radius for p in at) / min(p.radius for p in at), rel=0.05)
    bends = np.linalg.norm(places[2:] - 2 * places[1:-1] + places[:-2], axis=-1)
    assert found.jitter == pytest.approx(np.median(bends), abs=0.5)


@pytest.mark.parametrize("shape", OUTLINES)
def test_a_turn_is_a_turn_for_every_symmetry(shape):
    angles = np.linspace(0, 2 * math.pi, 16) % (2 * math.pi / SYMMETRIES[shape])
    found = measure_readings(
        readings([Pose(0.0, 0.0, 0.2, angle if shape != "circle" else 0.0) for angle in angles], shape)
    )
    assert found.rotation == pytest.approx(0 if shape == "circle" else 360)
    assert followed(found) == (["still"] if shape == "circle" else ["spin"])
    backwards = measure_readings(found.readings[::-1])
    assert backwards.rotation == pytest.approx(found.rotation)


def test_shaking_raises_the_jitter_by_as_much():
    rng, of = np.random.default_rng(0), scene("left")
    straight = [pose(of, time) for time in np.linspace(0, 1, 48).tolist()]
    shaken = [
        dataclasses.replace(p, x=p.x + dx, y=p.y + dy)
        for p, (dx, dy) in zip(straight, rng.normal(0, 1 / 64, (48, 2)), strict=True)
    ]
    before, after = (
        measure_clip(np.stack([draw("star", COLOURS["red"], BACKGROUNDS["black"], p, 64, 64) for p in poses]))
        for poses in (straight, shaken)
    )
    assert before.jitter < 0.3
    # Each axis of a second difference has a variance of 1 + 4 + 1; the median length of two is 1.18 deviations.
    assert after.jitter == pytest.approx(1.18 * math.sqrt(6), rel=0.3)


@pytest.mark.parametrize("change", [{"shape": "heart"}, {"colour": "green"}, None], ids=["shape", "colour", "nothing"])
def test_one_other_frame_is_not_itself(change):
    frames = clip(scene("left"), num_frames=6)
    assert measure_clip(frames).keeps_itself
    frames[3] = BLANK if change is None else clip(scene("left", **change), num_frames=6)[3]
    assert not measure_clip(frames).keeps_itself


def test_always_unknown_is_not_itself():
    assert not measure_readings([Reading(None, "red", "black", "plain", Pose(0.0, 0.0, 0.2, 0.0))] * 4).keeps_itself


def test_lost_frames_are_passed_over_until_too_few_are_left():
    frames = clip(scene("left"), num_frames=12)
    whole = measure_clip(frames)
    frames[[2, 7]] = BLANK
    some = measure_clip(frames)
    assert some.displacement == pytest.approx(whole.displacement, abs=0.1)
    assert some.jitter < 0.5
    assert follows(some, "left")
    frames[:8] = BLANK
    few = measure_clip(frames)
    assert all(math.isnan(value) for value in (few.displacement, few.rotation, few.scaling, few.jitter))
    assert followed(few) == []


def test_a_lost_frame_does_not_undo_a_spin():
    found = measure_clip(clip(scene("spin"))).readings
    holed = measure_readings([*found[:5], Reading(), *found[6:]])
    assert followed(holed) == ["spin"]
    assert holed.rotation == pytest.approx(360 - 2 * 24, abs=5)


def test_frames_in_random_order_and_random_places_follow_nothing():
    rng = np.random.default_rng(0)
    poses = [pose(scene("left"), time) for time in np.linspace(0, 1, 16).tolist()]
    shuffled = [measure_readings(readings(rng.permutation(np.array(poses, object)).tolist())) for _ in range(100)]
    places = rng.uniform(-0.3, 0.3, (100, 16, 2)).tolist()
    scattered = [measure_readings(readings([Pose(x, y, 0.2, 0.0) for x, y in each])) for each in places]
    assert np.mean([followed(measure) == [] for measure in shuffled + scattered]) >= 0.95


def test_moving_and_growing_at_once_is_neither():
    at = [Pose(x, 0.0, 0.2 + 0.3 * x, 0.0) for x in np.linspace(-0.2, 0.2, 16).tolist()]
    assert followed(measure_readings(readings(at))) == []


def test_a_named_colour_is_passed_on():
    frames = np.stack([draw("star", (130, 80, 35), BACKGROUNDS["white"], Pose(0.0, 0.0, 0.2, 0.0), 64, 64)] * 2)
    assert measure_clip(frames, colours=COLOURS | {"brown": (130, 80, 35)}).keeps_itself
    assert not measure_clip(frames).keeps_itself


def test_unknown_motions_and_empty_clips_are_refused():
    with pytest.raises(ValueError, match="motion must be one of left"):
        follows(measure_readings([Reading()]), "jumping")
    with pytest.raises(ValueError, match="at least one frame"):
        measure_clip(np.zeros((0, 64, 64, 3), np.uint8))
