"""Items' prompts to conditionings: what is encoded, how often, and that batches of unequal ones change no item."""

import numpy as np
import pytest
import torch

from animatediff.diffusion.context import Context
from animatediff.diffusion.travel import Travel
from animatediff.errors import UserError
from animatediff.models.prompt_encoders import PromptEncoders
from animatediff.models.text_encoder import PromptEncoder
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.prompt_conditioning import PromptConditioner
from animatediff.sprites import shipped
from animatediff.weights.base import load_text_encoders

LONG = "a large red star moving left on a dark blue background, " * 3
BY_FRAME = {1: "a red circle", 3: "a blue circle"}


@pytest.fixture(scope="module")
def parts():
    return load_text_encoders(str(shipped.BASE))


@pytest.fixture(scope="module")
def encoder(parts):
    return PromptEncoder(*parts["text_encoder"])


@pytest.fixture
def encoders(parts):
    return PromptEncoders(parts)


@pytest.fixture
def conditioner(encoders):
    return PromptConditioner(encoders, torch.float32)


@pytest.fixture(scope="module")
def animator():
    return Animator(str(shipped.BASE), str(shipped.MOTION_MODULE), schedule=None, device="cpu")


def item(prompt, **changes):
    settings = {"seed": 3, "num_inference_steps": 2, "width": 16, "height": 16, "num_frames": 5}
    return Item(digest="0", entry="x", model="", prompt=prompt, **(settings | changes))


def test_a_plain_prompt_and_its_negative_are_as_they_were(conditioner, encoder):
    found = conditioner.conditioning(item("a (red:1.5) circle", negative_prompt="grey"))
    assert torch.equal(found.text, encoder.encode(["a (red:1.5) circle"]))
    assert torch.equal(found.negative.text, encoder.encode(["grey"]))


def test_without_guidance_nothing_depends_on_the_negative_prompt(conditioner):
    how = {"prompt_syntax": "a1111", "guidance_scale": 1}
    found = conditioner.conditioning(item("a red circle", negative_prompt=LONG, **how))
    assert found.negative is None
    assert torch.equal(found.text, conditioner.conditioning(item("a red circle", **how)).text)


@pytest.mark.parametrize(("prompt", "negative_prompt"), [("a red circle", LONG), (LONG, ""), ("a BREAK b", LONG)])
def test_prompt_and_negative_prompt_have_equally_many_chunks(conditioner, encoder, prompt, negative_prompt):
    found = conditioner.conditioning(item(prompt, negative_prompt=negative_prompt, prompt_syntax="a1111"))
    assert found.text.shape == found.negative.text.shape == (1, 3 * 24, 128)
    empty = encoder.encode([""])
    if prompt == "a red circle":
        assert torch.equal(found.text, torch.cat([encoder.encode([prompt]), empty, empty], dim=1))
    if not negative_prompt:
        assert torch.equal(found.negative.text, empty.repeat(1, 3, 1))


@pytest.mark.parametrize("syntax", ["plain", "a1111"])
@pytest.mark.parametrize("interpolation", ["linear", "slerp"])
def test_at_keys_a_frame_has_the_plain_prompts_embedding(conditioner, encoder, syntax, interpolation):
    travel = Travel(interpolation=interpolation, dwell=0.3)
    for loop in (False, True):
        how = {"prompt_syntax": syntax, "loop": loop, "travel": travel}
        found = conditioner.conditioning(item(BY_FRAME, negative_prompt="grey", **how))
        assert found.text.shape == found.negative.text.shape == (1, 5, 24, 128)
        for frame, text in BY_FRAME.items():
            assert torch.equal(found.text[:, frame], encoder.encode([text]))
        assert torch.equal(found.negative.text, encoder.encode(["grey"])[:, None].expand(1, 5, -1, -1))
        assert torch.equal(found.text[:, 0], found.text[:, 1]) is not loop


def test_a_negative_prompt_travels_as_well(conditioner, encoder):
    found = conditioner.conditioning(item("a red circle", negative_prompt=BY_FRAME))
    assert torch.equal(found.negative.text[:, 4], encoder.encode(["a blue circle"]))
    assert torch.equal(found.text[:, 4], encoder.encode(["a red circle"]))


def test_keys_of_unequal_lengths_have_equally_many_chunks(conditioner, encoder):
    found = conditioner.conditioning(item({0: "a red circle", 4: LONG}, prompt_syntax="a1111")).text
    assert found.shape == (1, 5, 3 * 24, 128)
    assert torch.equal(found[:, 0, :24], encoder.encode(["a red circle"]))
    assert torch.equal(found[:, 4, :24], encoder.encode([LONG.split(",")[0] + ","]))


def test_distinct_texts_are_encoded_once_until_the_weights_change(conditioner, encoders, monkeypatch):
    asked = []
    real = encoders.encode
    monkeypatch.setattr(encoders, "encode", lambda text, clip_skip: asked.append(text) or real(text, clip_skip))
    for seed in (0, 1):
        conditioner.conditioning(item({0: "a", 2: "b", 4: "a"}, negative_prompt="b", seed=seed))
    assert asked == ["a", "b"]
    conditioner.cache_key = "others"
    conditioner.conditioning(item("a", negative_prompt="b"))
    assert asked == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("prompt", "syntax", "says"),
    [
        ({0: "a", 5: "b"}, "plain", "for frame 5, and the last of the clip's 5 frames is 4"),
        ("<lora:x:1>", "a1111", "`loras`"),
        ({0: "a", 2: "[b|c]"}, "a1111", r"'\[b\|c\]'"),
    ],
)
def test_what_cannot_be_rendered_is_refused(conditioner, prompt, syntax, says):
    with pytest.raises(UserError, match=says):
        conditioner.conditioning(item(prompt, prompt_syntax=syntax))


def test_warnings_are_of_the_syntax(conditioner):
    assert conditioner.warnings(item("a red circle", negative_prompt="grey")) is None
    assert "read as plain characters" in conditioner.warnings(item("a (red:1.5) circle"))
    assert "cut off" in conditioner.warnings(item({0: "a", 2: LONG}))
    assert conditioner.warnings(item(f"({LONG}:1.1)", prompt_syntax="a1111")) is None
    assert "embedding:x" in conditioner.warnings(item("embedding:x", prompt_syntax="a1111"))


def test_frames_depend_on_the_item_alone_whatever_shapes_its_batch_has(animator):
    how = {"negative_prompt": "grey", "prompt_syntax": "a1111"}
    items = [
        item("a (red:1.2) circle", **how),
        item(LONG, **how),
        item(BY_FRAME, **how),
        item("a BREAK b", **how, seed=4),
        item(LONG, **how, seed=5),
    ]
    together = animator.render_batch(items)
    for each, clip in zip(items, together, strict=True):
        (alone,) = animator.render_batch([each])
        assert np.abs(clip.frames.astype(int) - alone.frames).max() <= 1  # a product rounds by its number of rows


@pytest.mark.parametrize("changes", [{}, {"context": Context(length=4, overlap=2), "loop": True, "num_frames": 7}])
def test_one_text_in_all_frames_is_the_prompt_without_frames(animator, changes):
    plain = animator.render(item("a red circle", **changes))
    np.testing.assert_array_equal(animator.render(item({2: "a red circle"}, **changes)), plain)
    np.testing.assert_array_equal(animator.render(item({0: "a red circle", 4: "a red circle"}, **changes)), plain)
    assert (animator.render(item({0: "a red circle", 4: "a blue circle"}, **changes)) != plain).any()


def test_words_without_marks_are_the_plain_prompt(animator):
    plain = animator.render(item("a red circle", negative_prompt="grey"))
    marked = animator.render(item(r"a r\ed circle", negative_prompt="grey", prompt_syntax="a1111"))
    np.testing.assert_array_equal(marked, plain)


def test_windows_take_the_texts_of_their_frames(animator):
    """Two windows that share no frame's text with a third prompt: their frames do not know of it."""
    far = {0: "a red circle", 11: "a blue circle"}
    how = {
        "num_frames": 12,
        "context": Context(length=4, overlap=2),
        "num_inference_steps": 1,
        "travel": Travel(dwell=1),
    }
    travelled = animator.render(item(far, **how))
    plain = animator.render(item("a red circle", **how))
    same = [bool((a == b).all()) for a, b in zip(travelled, plain, strict=True)]
    assert same[:8] == [True] * 8
    assert not same[11]
