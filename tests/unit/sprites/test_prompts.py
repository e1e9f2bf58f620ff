"""Weighted and travelling prompts in pictures: what the sprite world's readings find in them."""

import numpy as np
import pytest
import torch

from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.ledger import make_result
from animatediff.sprites import shipped
from animatediff.sprites.readings.pictures import read
from animatediff.sprites.scoring import score

RED, BLUE = (f"a large {colour} circle on a white background" for colour in ("red", "blue"))


@pytest.fixture(scope="module")
def animator():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Animator(str(shipped.BASE), str(shipped.MOTION_MODULE), schedule=None, device="cpu")
    torch.set_num_threads(before)


def item(prompt, **changes):
    size = {"width": 64, "height": 64, "num_inference_steps": 10}
    return Item(digest="0", entry="x", model="", prompt=prompt, **(size | {"seed": 0} | changes))


@pytest.mark.parametrize("seed", [0, 1])
def test_of_two_colours_a_weight_says_which(animator, seed):
    def redness(weight):
        prompt = f"a large (red:{weight}) blue circle on a white background"
        (frame,) = animator.render(item(prompt, prompt_syntax="a1111", num_frames=1, seed=seed))
        red, _, blue = frame[24:40, 24:40].reshape(-1, 3).mean(0)
        return red - blue

    # Measured over three seeds: -73 to -38, and 184 to 213.
    assert redness(0.1) < -20
    assert redness(1.5) > 100


def test_a_clip_travels_from_one_colour_to_another(animator):
    travelled = item({0: RED, 7: BLUE}, num_frames=8)
    frames = animator.render(travelled)
    colours = [read(frame).colour for frame in frames]
    assert (colours[0], colours[-1]) == ("red", "blue")
    assert [read(frame).shape for frame in (frames[0], frames[-1])] == ["circle", "circle"]
    blueness = frames[:, 24:40, 24:40].astype(float).mean((1, 2)) @ np.array([-1.0, 0.0, 1.0])
    assert (np.diff(blueness) > -10).all()
    scores = score(make_result(travelled, status="ok"), frames)
    assert scores["shape"] == 1
    assert "colour" not in scores  # of which the prompt says two


@pytest.mark.parametrize(("syntax", "is_told"), [("a1111", True), ("plain", False)])
def test_the_words_of_a_weighted_prompt_are_scored(syntax, is_told):
    weighted = item("a large (red:1.2) circle on a white background", prompt_syntax=syntax)
    blank = np.full((1, 64, 64, 3), 255, np.uint8)
    assert ("colour" in score(make_result(weighted, status="ok"), blank)) is is_told
