"""Rendering in a precision that is asked for: what is held in it, and that frames depend on the item alone."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from animatediff.models.computing import processor
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.controls import ControlSpec, ImageSpec
from animatediff.rendering.catalog.entries import Entry, Lora, ModelFiles
from animatediff.rendering.catalog.item import Item
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.support_base import build_base
from tests.support_controls import build_controls

BARE = Entry(name="bare")
FACTORS = {"down": (2, 32), "up": (32, 2)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    return folder


def make(folder, precision):
    files = {"base": str(folder / "base"), "motion_module": str(folder / "motion.safetensors")}
    return Animator.for_model(ModelFiles(**files, precision=precision), device="cpu")


@pytest.fixture(scope="module")
def animators(folder):
    return {precision: make(folder, precision) for precision in (None, "float32", "bfloat16")}


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 2}
    size = {"width": 32, "height": 16, "num_frames": 3}
    return Item(digest="0", entry="x", model="", **(settings | size | changes))


def rendered(animator, entry=BARE, **changes):
    animator.load(entry)
    return animator.render(item(**changes))


def dtypes(animator):
    states = {part: module.state_dict() for part, module in animator._weights._modules.items()}
    return {part: {t.dtype for t in state.values() if t.is_floating_point()} for part, state in states.items()}


def test_the_unet_is_held_in_it_and_the_rest_in_float32(animators):
    wide, half = {torch.float32}, {torch.bfloat16}
    assert dtypes(animators["bfloat16"]) == {"unet": half, "motion": half, "vae": wide, "text_encoder": wide}
    assert set(map(frozenset, dtypes(animators[None]).values())) == {frozenset({torch.float32})}


def test_bfloat16_is_near_to_float32_which_is_a_processors_own(animators):
    # Guidance would multiply the rounding.
    own, wide, half = (
        rendered(animators[precision], guidance_scale=1.0).astype(int) for precision in (None, "float32", "bfloat16")
    )
    np.testing.assert_array_equal(wide, own)
    assert 0 < abs(half - wide).mean() < 2


def test_after_a_swap_the_bytes_are_the_bases_again(animators, folder):
    lora, name = folder / "lora.safetensors", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{name}.lora_{way}.weight": torch.ones(size) for way, size in FACTORS.items()}, lora)
    animator = animators["bfloat16"]
    first = rendered(animator)
    assert (rendered(animator, Entry(name="lora", loras=(Lora(path=str(lora)),))) != first).any()
    np.testing.assert_array_equal(rendered(animator), first)


def test_networks_and_image_prompts_are_of_the_unets_precision(animators, folder):
    files = build_controls(folder / "controls", folder / "base")
    nets = tuple(ControlSpec(net=files[name], pictures=(files["one"],)) for name in ("control_net", "rgb"))
    images = (ImageSpec(adapter=files["adapter"], pictures=(files["one"],)),)
    led = {"controls": nets, "images": images, "image_encoder": files["image_encoder"]}
    half, wide = (rendered(animators[precision], **led).astype(int) for precision in ("bfloat16", "float32"))
    assert abs(half - wide).mean() < 10
    assert abs(half - rendered(animators["bfloat16"])).mean() > abs(half - wide).mean()


@pytest.mark.parametrize(("is_native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_goes_by_the_processor_where_no_job_has_found_out(folder, monkeypatch, is_native, dtype):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda: is_native)
    assert make(folder, "auto")._unet.base.dtype == dtype
