"""What SDXL is told of a clip's picture: the numbers that diffusers' trainer gives, for every way of cropping."""

import numpy as np
import pytest
from PIL import Image

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.plan import ResolutionSpan, plan_clips
from animatediff.data.clips.resize import crop_and_resize
from animatediff.data.clips.source_crop import SourceCrop


def crops(source=(720, 1280), **config):
    """Of the clips of a video of 64 frames, (height, width) large."""
    height, width = source
    spans = (ResolutionSpan(0, width, height),)
    plans = plan_clips(np.arange(64) / 25, spans, video_id="video", config=ClipConfig(**config))
    return [SourceCrop.of(plan, source=source) for plan in plans]


@pytest.mark.parametrize(
    ("source", "size", "crop"),
    [
        ((720, 1280), (1024, 1024), (0, 398)),  # resized to 1024 x 1820, as train_resize does: (1820 - 1024) / 2
        ((1920, 1080), (1024, 1024), (398, 0)),
        ((720, 1280), (768, 1344), (0, 11)),  # a bucket of nearly the video's ratio
        ((360, 640), (360, 640), (0, 0)),
        ((64, 64), (256, 256), (0, 0)),  # smaller than the clip: told by the original size alone
    ],
)
def test_the_largest_crop_lies_in_the_centre_of_the_resized_picture(source, size, crop):
    assert crops(source, height=size[0], width=size[1]) == [(*source, *crop)]


def test_the_numbers_find_the_clip_in_the_resized_picture():
    rng = np.random.default_rng(0)
    frame = np.asarray(Image.fromarray(rng.integers(0, 256, (9, 15, 3), np.uint8)).resize((150, 90)))
    ((_, _, top, left),) = crops((90, 150), height=48, width=48)
    resized = np.asarray(Image.fromarray(frame).resize((80, 48), Image.Resampling.BICUBIC))
    clip = crop_and_resize(frame, height=48, width=48)
    assert np.abs(resized[top : top + 48, left : left + 48].astype(int) - clip).max() <= 1


def test_a_mirrored_clip_is_a_crop_of_the_mirrored_picture():
    plain, mirrored = crops(height=256, width=256, flip=True, camera="tilt_down")
    assert mirrored == plain  # whose crops lie in the middle of the width
    plain, mirrored = crops((300, 401), height=256, width=256, flip=True)
    assert abs(plain.crop_left - (round(401 * 256 / 300) - 256 - mirrored.crop_left)) <= 1


@pytest.mark.parametrize("moves", [("zoom_in", "zoom_out"), ("pan_left", "pan_right"), ("tilt_up", "tilt_down")])
def test_a_camera_move_has_the_mean_of_its_crops_and_does_not_tell_its_direction(moves):
    (one,), (other,) = (crops(height=256, width=256, camera=move) for move in moves)
    assert one == other
    assert one[:2] == (720, 1280)
    wide, tall = one.crop_left + 128, one.crop_top + 128  # the middle of the clip in the resized picture
    assert wide / tall == pytest.approx(1280 / 720, rel=0.01)
