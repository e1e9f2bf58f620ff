"""Clips of the sprite world are scored by what their prompts say, and by nothing else."""

import pytest

from animatediff.rendering.results.result import Result
from animatediff.sprites.scenes.drawing import draw, render
from animatediff.sprites.scenes.world import BACKGROUNDS, NEW_COLOUR, Scene, caption, pose
from animatediff.sprites.scoring import score, style_of

SCENE = Scene("star", "red", "large", "dark green", "left")


def scored(prompt, frames, entry="base"):
    return score(Result(digest="d", entry=entry, model="m", prompt=prompt, seed=0, status="ok"), frames)


def rendered(scene=SCENE, style="plain"):
    return render(scene, num_frames=16, height=64, width=64, style=style)


@pytest.mark.parametrize("style", ["plain", "cel", "chalk"])
def test_a_clip_as_its_prompt_says_has_full_marks(style):
    scores = scored(caption(SCENE), rendered(style=style), entry=f"my-{style}")
    jitter = scores.pop("jitter")
    hidden = {"background"} if style == "chalk" else set()
    named = {"shape", "colour", "background", "style", "stays itself", "motion"} - hidden
    assert scores == dict.fromkeys(named, 1.0)
    assert 0 <= jitter < 0.5


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a large red heart moving left on a dark green background", "shape"),
        ("a large green star moving left on a dark green background", "colour"),
        ("a large red star moving left on a black background", "background"),
        ("a large red star moving right on a dark green background", "motion"),
    ],
)
def test_each_broken_promise_lowers_its_own_score(prompt, wrong):
    scores = scored(prompt, rendered())
    assert [name for name, value in scores.items() if value == 0 and name != "jitter"] == [wrong]


def test_what_the_prompt_does_not_say_is_not_scored():
    assert set(scored("something pretty", rendered())) == {"style", "stays itself", "jitter"}


def test_a_learned_colour_is_told_from_the_named_ones():
    word, rgb = NEW_COLOUR
    frames = rendered()
    for i in range(len(frames)):
        frames[i] = draw("star", rgb, BACKGROUNDS["white"], pose(SCENE, i / 15), 64, 64)
    assert scored(f"a large {word} star moving left on a white background", frames)["colour"] == 1
    assert scored("a large orange star moving left on a white background", frames)["colour"] == 0


def test_the_style_is_the_end_of_the_entry_s_name():
    assert [style_of(name) for name in ("base", "dreambooth-cel", "lora-chalk", "cel-base")] == [
        "plain",
        "cel",
        "chalk",
        "plain",
    ]
