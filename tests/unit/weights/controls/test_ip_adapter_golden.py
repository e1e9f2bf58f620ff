"""Agreement with tencent-ailab/IP-Adapter and diffusers, from the file to the UNet's prediction.

Inputs and outputs are in `shared/golden/ip_adapter.safetensors` beside the checkout; without it the tests are skipped.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from animatediff.diffusion.conditioning import Conditioning, ImagePrompt
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights.controls import ip_adapter_file

GOLDEN = Path(__file__).parents[5] / "shared" / "golden" / "ip_adapter.safetensors"
TOLERANCE = 1e-5
VARIANTS = ("base", "plus", "full")

pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden data is not beside the checkout")


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def unet(golden):
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["unet2d_config"])
    weights = {name.removeprefix("unet."): t.float() for name, t in golden.items() if name.startswith("unet.")}
    motion = {name: t for name, t in weights.items() if "motion_modules" in name and "pos_encoder" not in name}
    model = MotionUNet(UNet2DConditionModel(**config), MotionConfig.for_version("v3")).eval()
    model.motion.load_state_dict(motion)
    model.base.load_state_dict({name: t for name, t in weights.items() if "motion_modules" not in name})
    return model


@pytest.fixture(scope="module")
def still_unet(unet):
    """The image UNet: fresh motion modules change nothing."""
    return MotionUNet(unet.base, MotionConfig.for_version("v3")).eval()


@pytest.fixture(scope="module")
def adapters(golden, tmp_path_factory):
    """The three variants, each read from a file."""
    folder = tmp_path_factory.mktemp("files")
    return {variant: ip_adapter_file.read(write(golden, variant, folder, "safetensors")) for variant in VARIANTS}


def write(golden, variant, folder, suffix):
    flat = {name.removeprefix(f"{variant}."): t for name, t in golden.items() if name.startswith(f"{variant}.")}
    path = folder / f"{variant}.{suffix}"
    if suffix == "safetensors":
        save_file(flat, path)
    else:
        nested = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in flat.items():
            part, _, rest = name.partition(".")
            nested[part][rest] = tensor.clone()
        torch.save(nested, path)
    return str(path)


def tokens(golden, adapters, name):
    """(2 images n d): unconditional and conditional."""
    embeds = golden[f"image_embeds_{name}"]
    with torch.no_grad():
        return adapters[name.split("_")[0]].image_proj(embeds.flatten(0, 1)).unflatten(0, embeds.shape[:2])


def predict(model, golden, *images, num_frames):
    told = Conditioning(golden["encoder_hidden_states"], image_prompts=images)
    latents = golden["latents"][:, :, :num_frames].expand(2, -1, -1, -1, -1)
    with torch.no_grad():
        return model(latents, golden["timestep"], told)


def difference(found, expected):
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_layouts_are_the_same_adapter(golden, adapters, variant, tmp_path):
    found = ip_adapter_file.read(write(golden, variant, tmp_path, "bin")).state_dict()
    expected = adapters[variant].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_tokens(golden, adapters, variant):
    assert difference(tokens(golden, adapters, variant), golden[f"image_tokens_{variant}"]) < TOLERANCE


def test_without_images(golden, unet, still_unet):
    assert difference(predict(still_unet, golden, num_frames=1)[:, :, 0], golden["noise_pred_2d_none"]) < TOLERANCE
    assert difference(predict(unet, golden, num_frames=6), golden["noise_pred_video_none"]) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("base", {"base": 0.6}),
        ("plus", {"plus": 0.6}),
        ("full", {"full": 0.6}),
        ("base_two_images", {"base_two_images": 0.6}),
        ("base_and_plus", {"base": 0.6, "plus": 0.3}),
    ],
)
def test_one_frame(golden, adapters, still_unet, name, scales):
    images = [
        ImagePrompt(adapters[source.split("_")[0]], tokens(golden, adapters, source).flatten(1, 2), scale)
        for source, scale in scales.items()
    ]
    found = predict(still_unet, golden, *images, num_frames=1)[:, :, 0]
    assert difference(found, golden[f"noise_pred_2d_{name}"]) < TOLERANCE
    assert difference(found, golden["noise_pred_2d_none"]) > 100 * TOLERANCE


def test_one_image_for_a_video(golden, adapters, unet):
    image = ImagePrompt(adapters["base"], tokens(golden, adapters, "base").flatten(1, 2), 0.6)
    assert difference(predict(unet, golden, image, num_frames=6), golden["noise_pred_video"]) < TOLERANCE


def test_an_image_a_frame(golden, adapters, unet):
    image = ImagePrompt(adapters["base"], tokens(golden, adapters, "base_per_frame"), 0.6)
    assert difference(predict(unet, golden, image, num_frames=6), golden["noise_pred_video_per_frame"]) < TOLERANCE


def test_sampling_with_guidance_gives_each_branch_its_tokens(golden, adapters, unet):
    """Steps of `sample` are those that the predictions of the two halves, each by itself, give by hand."""
    pair = tokens(golden, adapters, "base").flatten(1, 2)
    negative, positive = (
        Conditioning(text, image_prompts=(ImagePrompt(adapters["base"], image, 0.6),))
        for text, image in zip(golden["encoder_hidden_states"].split(1), pair.split(1), strict=True)
    )
    sampler, noise = SAMPLERS["ddim"](NoiseSchedule()), golden["latents"][:, :, :3]
    told = replace(positive, negative=negative)
    found = sample(unet, sampler, told, noise, num_inference_steps=2, guidance_scale=7.5)
    scheduler, latents = sampler.begin(2), noise
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            without, with_text = (unet(latents, timestep, branch) for branch in (negative, positive))
        latents = scheduler.step(without + 7.5 * (with_text - without), timestep, latents).prev_sample
    assert difference(found, latents) < 1e-4  # guidance multiplies differences by up to 14
    swapped = replace(positive, negative=replace(negative, image_prompts=positive.image_prompts))
    other = sample(unet, sampler, swapped, noise, num_inference_steps=2, guidance_scale=7.5)
    assert difference(found, other) > 1e-2
