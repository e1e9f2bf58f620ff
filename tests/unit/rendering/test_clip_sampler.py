"""What clips begin from, FreeInit and the second pass, through the animator; and diffusers' video-to-video."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AnimateDiffVideoToVideoPipeline, MotionAdapter, UNet2DConditionModel, UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from diffusers.pipelines.animatediff import pipeline_animatediff_video2video as video_to_video
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.models.vae import encode_frames
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.conditions.pictures import read_video_frames
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet, load_vae
from tests.support import mp4
from tests.support_base import build_base

SCHEDULE = NoiseSchedule()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, a motion module that moves, two pictures, a video."""
    folder = tmp_path_factory.mktemp("files")
    motion = MotionModules.for_base(load_unet(str(build_base(folder / "base"))), MotionConfig.for_version("v3"))
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    for number in range(2):
        torch.manual_seed(number)
        Image.effect_noise((40, 20), 80 + number).convert("RGB").save(folder / f"{number}.png")
    (folder / "video.mp4").write_bytes(mp4(20, height=16, width=32, fps=8))
    return folder


@pytest.fixture(scope="module")
def animator(files):
    return Animator(str(files / "base"), str(files / "motion.safetensors"), schedule=SCHEDULE, device="cpu")


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 4}
    return Item(digest="", entry="x", model="", **(settings | {"width": 32, "height": 16, "num_frames": 4} | changes))


class PerFrame(torch.nn.Module):
    """A norm of each frame by itself, of 32 groups, as the reference has it.

    Diffusers' own is over all frames, and has the groups of the image layers.
    """

    def __init__(self, norm):
        super().__init__()
        self.norm = torch.nn.GroupNorm(32, norm.num_channels, eps=norm.eps)
        self.norm.load_state_dict(norm.state_dict())

    def forward(self, x):
        b, c, f, h, w = x.shape
        frames = self.norm(x.transpose(1, 2).reshape(b * f, c, h, w))
        return frames.reshape(b, f, c, h, w).transpose(1, 2)


def diffusers_pipeline(files, tmp_path):
    motion_modules.convert(str(files / "motion.safetensors"), str(tmp_path / "adapter"), to="diffusers")
    unet = UNetMotionModel.from_unet2d(
        UNet2DConditionModel.from_pretrained(files / "base", subfolder="unet"),
        MotionAdapter.from_pretrained(tmp_path / "adapter"),
    )
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = PerFrame(module.norm)
    pipeline = AnimateDiffVideoToVideoPipeline(
        vae=load_vae(str(files / "base")),
        text_encoder=CLIPTextModel.from_pretrained(files / "base", subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(files / "base", subfolder="tokenizer"),
        unet=unet,
        motion_adapter=None,
        scheduler=SAMPLERS["ddim"](SCHEDULE).scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_a_clip_from_a_video_is_diffusers_own(files, animator, tmp_path, monkeypatch):
    wanted = item(init_video=str(files / "video.mp4"), strength=0.6, num_inference_steps=5)
    noise = torch.randn(1, 4, 4, 2, 4, generator=torch.Generator().manual_seed(wanted.seed))
    # The same noise, which it draws frame by frame, and the posterior's mean.
    monkeypatch.setattr(video_to_video, "randn_tensor", lambda shape, **_: noise.transpose(1, 2))
    monkeypatch.setattr(video_to_video, "retrieve_latents", lambda output, **_: output.latent_dist.mean)
    video = read_video_frames(wanted.init_video, num_frames=4, fps=8, width=32, height=16)
    frames = diffusers_pipeline(files, tmp_path)(
        video=[Image.fromarray(frame) for frame in (video * 255).round().byte().permute(0, 2, 3, 1).numpy()],
        prompt=wanted.prompt,
        negative_prompt=wanted.negative_prompt,
        height=16,
        width=32,
        num_inference_steps=5,
        strength=0.6,
        guidance_scale=wanted.guidance_scale,
        output_type="np",
    ).frames[0]
    own = animator.render(wanted)
    # Levels of 255; half a level is rounding. Sums in another order, which this untrained base blows up, made it 1.4.
    assert np.abs(own - frames * 255).max() <= 3
    assert np.abs(own - animator.render(item()).astype(int)).max() > 20


@pytest.mark.parametrize(
    "settings",
    [
        {"init_image": "0.png"},
        {"init_image": "0.png", "sampler": "lcm", "loop": True},
        {"init_video": "video.mp4", "sampler": "euler_a", "context": Context(length=3, overlap=1)},
        {"free_init": FreeInit(iterations=2), "sampler": "euler_a"},
        {"free_init": FreeInit(iterations=2, fast=True), "context": Context(length=3, overlap=1), "loop": True},
        {"second_pass": SecondPass(scale=1.5, num_inference_steps=6), "sampler": "dpmpp_2m"},
        {"second_pass": SecondPass(scale=1.5, of="frames"), "context": Context(length=3, overlap=1)},
        {"second_pass": SecondPass(scale=1.5), "init_image": "0.png", "loop": True, "guidance_scale": 1.0},
    ],
    ids=str,
)
def test_frames_depend_on_the_item_alone(files, animator, settings):
    settings = {name: str(files / value) if name.startswith("init_") else value for name, value in settings.items()}
    size = {"width": 16, "height": 16, "num_inference_steps": 3}
    wanted, other = item(**size, **settings), item(**size, **settings, seed=9, prompt="a blue square")
    if wanted.init_image:
        other = other.model_copy(update={"init_image": str(files / "1.png")})
    alone = animator.render(wanted)
    assert alone.shape == (4, wanted.output_height, wanted.output_width, 3)
    _, beside = animator.render_batch([other, wanted], max_batch=1)
    np.testing.assert_array_equal(beside.frames, alone)
    assert beside.latents.shape == (4, 4, wanted.output_height // 8, wanted.output_width // 8)
    assert not np.array_equal(animator.render(other), alone)


def test_a_picture_is_repeated_over_all_frames_and_kept_the_more_the_less_the_strength(files, animator):
    def distance(strength):
        frames = animator.render(item(init_image=str(files / "0.png"), strength=strength)).astype(int)
        return np.abs(frames - kept).mean()

    kept = animator.render(item(init_image=str(files / "0.png"), strength=0.0)).astype(int)
    assert (kept == kept[:1]).all()
    assert 0 < distance(0.25) < distance(0.5) < distance(1.0)


def test_free_init_once_is_none(animator):
    np.testing.assert_array_equal(animator.render(item(free_init=FreeInit(iterations=1))), animator.render(item()))
    assert not np.array_equal(animator.render(item(free_init=FreeInit(iterations=2))), animator.render(item()))


def test_a_second_pass_without_strength_is_the_first_made_larger(animator):
    (first,) = animator.render_batch([item()])
    for scale in (1.0, 2.0):
        (larger,) = animator.render_batch([item(second_pass=SecondPass(scale=scale, strength=0.0))])
        expected = F.interpolate(first.latents.float(), scale_factor=scale, mode="bicubic")
        torch.testing.assert_close(larger.latents.float(), expected, rtol=0, atol=5e-3)  # given in half precision


def test_what_cannot_be_read_is_the_items_error(files, animator, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png cannot be read as a picture"):
        animator.render(item(init_image=str(tmp_path / "broken.png")))
    with pytest.raises(UserError, match="too short for num_frames 30 at fps 8"):
        animator.render(item(init_video=str(files / "video.mp4"), num_frames=30))


def test_frames_are_encoded_as_those_of_a_dataset(files):
    vae = load_vae(str(files / "base"))
    frames = torch.randint(0, 256, (10, 3, 16, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = FrameCodec(vae, 0.5).encode(frames / 255)
    expected = 0.5 * torch.from_numpy(encode_frames(vae, frames.permute(0, 2, 3, 1).numpy())).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # those are stored in half precision
