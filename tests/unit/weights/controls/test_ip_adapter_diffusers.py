"""The same clips as diffusers' AnimateDiff pipeline with IP-Adapters: same files, pictures, prompts and noise."""

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from PIL import Image
from torch import nn

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.models.config import MotionConfig
from animatediff.models.image_prompt.ip_adapter import image_tokens
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.models.text_encoder import PromptEncoder
from animatediff.weights import motion_modules
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.controls import image_encoder_folder, ip_adapter_file
from tests.support_base import build_base
from tests.support_ip_adapter import build_image_encoder, write_ip_adapter

PROMPTS = "a large red star", "a small blue circle"  # positive, negative
NUM_FRAMES, STEPS, GUIDANCE, SIZE = 3, 3, 5.0, 64


class PerFrame(nn.Module):
    """The norm of a motion module as in the reference: diffusers' is over the whole clip."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, clips):  # b c f h w
        return self.norm(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(clips), -1)).transpose(1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, a motion module in diffusers' layout, and `models` as in IP-Adapter's repository."""
    folder = tmp_path_factory.mktemp("files")
    build_base(folder / "base")
    unet = load_unet(str(folder / "base"))
    torch.manual_seed(1)
    # diffusers' motion modules have as many norm groups as the UNet.
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=unet.config.norm_num_groups))
    for name, parameter in motion.named_parameters():
        if "proj_out" in name:
            nn.init.normal_(parameter, std=0.1)
    motion_modules.write(str(folder / "motion"), motion, to="diffusers")
    build_image_encoder(folder / "models" / "image_encoder")
    for variant in ("base", "plus", "full-face"):
        write_ip_adapter(folder / "models" / f"{variant}.safetensors", unet, variant, seed=len(variant))
    return folder


@pytest.fixture(scope="module")
def pictures():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((50, 80), (40, 33))]


@pytest.fixture(scope="module")
def noise():
    return torch.randn(1, 4, NUM_FRAMES, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def pipeline(folder):
    """diffusers' pipeline, its motion modules' norms made per frame."""
    parts = StableDiffusionPipeline.from_pretrained(folder / "base")
    motion = MotionAdapter.from_pretrained(folder / "motion", local_files_only=True)
    names = ("vae", "text_encoder", "tokenizer", "unet")
    scheduler = SAMPLERS["ddim"](NoiseSchedule()).begin(STEPS)
    pipe = AnimateDiffPipeline(
        **{name: getattr(parts, name) for name in names}, scheduler=scheduler, motion_adapter=motion
    )
    for name, module in list(pipe.unet.named_modules()):
        if name.split(".")[-2:-1] == ["motion_modules"]:
            module.norm = PerFrame(module.norm)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def diffusers_clip(pipeline, folder, scales, pictures, noise):
    """(f h w 3) in [0, 1]; scales by the adapters' names."""
    files = [f"{name}.safetensors" for name in scales]
    pipeline.load_ip_adapter(str(folder), subfolder="models", weight_name=files)
    pipeline.set_ip_adapter_scale(list(scales.values()))
    images = [[Image.fromarray(picture) for picture in each] for each in pictures]
    options = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "height": SIZE, "width": SIZE}
    out = pipeline(
        *PROMPTS[:1],
        negative_prompt=PROMPTS[1],
        num_frames=NUM_FRAMES,
        latents=noise.clone(),
        ip_adapter_image=images,
        output_type="np",
        **options,
    )
    return out.frames[0]


@torch.no_grad()
def our_clip(folder, scales, pictures, noise):
    base = str(folder / "base")
    unet = MotionUNet(load_unet(base), motion_modules.read(str(folder / "motion"))).eval()
    encoder, vae = image_encoder_folder.read(str(folder)), load_vae(base)
    both = []
    for (name, scale), each in zip(scales.items(), pictures, strict=True):
        adapter = ip_adapter_file.read(str(folder / "models" / f"{name}.safetensors"))
        ip_adapter_file.check_fits(adapter, unet.base, base)
        both.append(image_tokens(each, adapter, encoder).joined().prompts(adapter, scale=scale))
    texts = PromptEncoder(*load_text_encoder(base)).encode(list(PROMPTS)).split(1)
    positive, negative = (tuple(pair[i] for pair in both) for i in range(2))
    told = Conditioning(texts[0], image_prompts=positive, negative=Conditioning(texts[1], image_prompts=negative))
    sampler = SAMPLERS["ddim"](NoiseSchedule())
    latents = sample(unet, sampler, told, noise, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    pixels = vae.decode(latents[0].transpose(0, 1) / vae.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("scales", "num_pictures"),
    [({"base": 0.8}, [2]), ({"plus": 0.7, "full-face": 0.4}, [1, 1])],
    ids=["two pictures", "two adapters"],
)
def test_the_same_clip(pipeline, folder, pictures, noise, scales, num_pictures):
    given = [pictures[:number] for number in num_pictures]
    theirs = diffusers_clip(pipeline, folder, scales, given, noise)
    ours = our_clip(folder, scales, given, noise)
    assert 255 * np.abs(ours - theirs).max() < 0.02  # found: 0.0017
    without = our_clip(folder, dict.fromkeys(scales, 0.0), given, noise)
    assert 255 * np.abs(ours - without).max() > 5
