"""SDXL bases are rendered as diffusers' own pipeline renders them, with all that an entry may name."""

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffSDXLPipeline, MotionAdapter, StableDiffusionXLPipeline, UNetMotionModel

from animatediff.diffusion.samplers import SAMPLERS
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.weights import motion_modules
from animatediff.weights.motion_schedule import PUBLISHED
from tests.support_sdxl import build_sdxl, write_motion

BARE = Entry(name="bare")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    write_motion(folder / "motion.safetensors", build_sdxl(folder / "base"))
    build_sdxl(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def animator(files):
    return Animator(str(files / "base"), str(files / "motion.safetensors"), schedule=None, device="cpu")


@pytest.fixture(scope="module")
def pipeline(files):
    """Diffusers' own, with the same weights; SDXL-beta's norms are over all frames there, too."""
    motion_modules.convert(str(files / "motion.safetensors"), str(files / "adapter"), to="diffusers")
    parts = StableDiffusionXLPipeline.from_pretrained(files / "base").components
    unet = UNetMotionModel.from_unet2d(parts["unet"], MotionAdapter.from_pretrained(files / "adapter"))
    # Forgotten by `from_unet2d` of diffusers 0.42.
    unet.add_embedding.load_state_dict(parts["unet"].add_embedding.state_dict())
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    found = AnimateDiffSDXLPipeline(
        **{name: parts[name] for name in names},
        unet=unet.eval(),
        motion_adapter=None,
        scheduler=SAMPLERS["ddim"](PUBLISHED["sdxl"]).scheduler,
    )
    found.set_progress_bar_config(disable=True)
    return found


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 4}
    size = {"width": 32, "height": 16, "num_frames": 4}
    return Item(digest="", entry="x", model="", **(settings | size | changes))


def noise_of(wanted):
    shape = (1, 4, wanted.num_frames, wanted.height // 8, wanted.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(wanted.seed))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"negative_prompt": "grey"}),
        ({"negative_prompt": ""}, {"negative_prompt": None}),  # zeros
        ({"guidance_scale": 1.0, "clip_skip": 1}, {"clip_skip": 1}),
        ({"guidance_rescale": 0.7}, {"negative_prompt": "grey", "guidance_rescale": 0.7}),
    ],
)
def test_a_clip_is_diffusers_own(animator, pipeline, changes, told):
    wanted = item(**changes)
    frames = pipeline(
        prompt=wanted.prompt,
        height=wanted.height,
        width=wanted.width,
        num_frames=wanted.num_frames,
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
        latents=noise_of(wanted),
        output_type="np",
        **told,
    ).frames[0]
    animator.load(BARE)
    own = animator.render(wanted)
    assert np.abs(own - frames * 255).max() <= 1.01  # levels of 255; half a level is rounding
    assert own.std() > 5
