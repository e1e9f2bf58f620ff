import json
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.config import dump, load, parse
from animatediff.data.clips.camera import CameraMove, crop_boxes
from animatediff.data.clips.config import ClipConfig
from animatediff.data.ingest.provenance import dataset_key

MOVES = get_args(CameraMove)
SIDE = st.integers(8, 4096)
ANY = {
    "num_frames": st.integers(2, 32),
    "size": st.tuples(SIDE, SIDE),
    "source": st.tuples(SIDE, SIDE),
    "travel": st.floats(0.01, 0.5),
}


def boxes(move, num_frames=16, *, size=(256, 256), source=(336, 596), travel=0.25):
    return crop_boxes(move, num_frames, size=size, source=source, travel=travel)


def largest(size, source):
    """(width, height) of the largest crop with the clip's aspect ratio."""
    scale = min(source[0] / size[0], source[1] / size[1])
    return np.array([size[1], size[0]]) * scale


@pytest.mark.parametrize("move", MOVES)
@settings(max_examples=40)
@given(**ANY)
def test_crops_lie_in_the_picture_and_have_the_clips_aspect_ratio(move, num_frames, size, source, travel):
    x, y, w, h = boxes(move, num_frames, size=size, source=source, travel=travel).T
    rounding = 1e-9 * max(source)
    assert len(x) == num_frames
    assert min(x.min(), y.min()) >= -rounding
    assert (x + w).max() <= source[1] + rounding
    assert (y + h).max() <= source[0] + rounding
    assert w / h == pytest.approx(size[1] / size[0])


@pytest.mark.parametrize(("forth", "back"), [MOVES[:2], MOVES[2:4], MOVES[4:]])
@settings(max_examples=40)
@given(**ANY)
def test_opposite_moves_are_each_other_backwards_and_mirrored(forth, back, num_frames, size, source, travel):
    one, other = (boxes(move, num_frames, size=size, source=source, travel=travel) for move in (forth, back))
    assert one[::-1] == pytest.approx(other)
    if "zoom" not in forth:
        x, y, w, h = one.T
        mirrored = np.stack([source[1] - x - w, source[0] - y - h, w, h], axis=1)
        assert mirrored == pytest.approx(other, abs=1e-9 * max(source))


@settings(max_examples=40)
@given(**ANY)
def test_zoom_in_shrinks_the_largest_crop_about_the_centre_by_one_factor(num_frames, size, source, travel):
    x, y, w, h = boxes("zoom_in", num_frames, size=size, source=source, travel=travel).T
    assert (w[0], h[0]) == pytest.approx(largest(size, source))
    assert (w[-1], h[-1]) == pytest.approx(largest(size, source) * (1 - travel))
    assert w[1:] / w[:-1] == pytest.approx(w[1] / w[0])
    assert w[1] < w[0]
    assert x + w / 2 == pytest.approx(source[1] / 2)
    assert y + h / 2 == pytest.approx(source[0] / 2)


@pytest.mark.parametrize(("move", "axis", "sign"), [("pan_right", 0, 1), ("pan_left", 0, -1), ("tilt_down", 1, 1)])
@settings(max_examples=40)
@given(**ANY)
def test_a_sliding_crop_keeps_its_size_and_goes_evenly_by_its_share(move, axis, sign, num_frames, size, source, travel):
    path = boxes(move, num_frames, size=size, source=source, travel=travel)
    assert np.ptp(path[:, 2:], axis=0) == pytest.approx(0)
    steps = np.diff(path[:, axis])
    assert steps == pytest.approx(sign * travel * path[0, 2 + axis] / (num_frames - 1))
    assert np.ptp(path[:, 1 - axis]) == pytest.approx(0)
    # No larger one would have the room: it touches two borders over its path.
    reach = np.max(path[:, :2] + path[:, 2:], axis=0) - np.min(path[:, :2], axis=0)
    assert np.max(reach / (source[1], source[0])) == pytest.approx(1)


def test_a_sliding_crop_uses_the_room_that_a_wide_picture_has():
    assert boxes("pan_right")[[0, -1]] == pytest.approx(np.array([[88, 0, 336, 336], [172, 0, 336, 336]]))
    # 336 pixels of height leave 336 / 1.25 for the crop.
    assert boxes("tilt_down")[[0, -1]].tolist() == pytest.approx(
        np.array([[163.6, 0, 268.8, 268.8], [163.6, 67.2, 268.8, 268.8]])
    )


@pytest.mark.parametrize("move", MOVES)
def test_one_frame_alone_shows_how_the_move_begins(move):
    assert boxes(move, 1) == pytest.approx(boxes(move)[:1])


def test_datasets_without_a_camera_keep_the_key_from_before_there_was_one():
    assert json.dumps(ClipConfig().model_dump(mode="json")) == (
        '{"num_frames": 16, "lengths": [], "stride": 4, "fps": null, "height": 256, "width": 256, "sizes": [], '
        '"aspect_ratios": [], "windows": "grid", "windows_per_video": null, "seed": 0, "flip": false}'
    )
    assert key() == "4fb518e3bc389dedfc478feadffb937ce4a53bf0aebbe95aee9b42f3852c0b61"


def key(**fields):
    return dataset_key({"clips": ClipConfig(**fields).model_dump(mode="json")})


def test_each_move_and_each_distance_has_a_key_of_its_own():
    keys = {key(camera=move, camera_travel=travel) for move in MOVES for travel in (0.25, 0.3)}
    assert len(keys | {key()}) == 2 * len(MOVES) + 1


@pytest.mark.parametrize("move", MOVES)
def test_flip_goes_with_the_moves_that_a_mirror_leaves_as_they_are(move):
    if move not in ("pan_left", "pan_right"):
        assert ClipConfig(camera=move, flip=True).flip
        return
    with pytest.raises(ValidationError, match=f"flip would mirror {move} into its opposite: set flip to false"):
        ClipConfig(camera=move, flip=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"camera": "roll"}, "zoom_in"),
        ({"camera": "zoom_in", "camera_travel": 0}, "greater than 0"),
        ({"camera": "zoom_in", "camera_travel": 0.6}, "less than or equal to 0.5"),
        ({"camera_travel": 0.4}, "camera_travel 0.4 is set, but no camera move: add camera"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        ClipConfig(**fields)


@pytest.mark.parametrize("fields", [{}, {"camera": "tilt_up"}, {"camera": "zoom_out", "camera_travel": 0.4}])
def test_the_camera_survives_yaml_and_the_command_line(fields, tmp_path):
    path = tmp_path / "clips.yaml"
    path.write_text(dump(ClipConfig(**fields)))
    assert load(ClipConfig, str(path)) == ClipConfig(**fields)
    assert ("camera" in path.read_text()) == bool(fields)
    given = parse(ClipConfig, ["--config", str(path), "--camera", "pan_left", "--camera-travel", "0.3"])
    assert (given.camera, given.camera_travel) == ("pan_left", 0.3)
