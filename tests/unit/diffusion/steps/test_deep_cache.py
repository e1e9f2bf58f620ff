"""Deep features taken again from step to step, through the denoising loop."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.diffusion.steps.deep_cache import DeepCache
from animatediff.diffusion.steps.deep_features import DeepFeatures
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from tests.unit.models.test_motion import randomise

DDIM = SAMPLERS["ddim"](NoiseSchedule())
SCALE = 7.5


@pytest.fixture(scope="module")
def unet():
    """In double precision, as random weights make much of how their sums round."""
    torch.manual_seed(0)
    base = UNet2DConditionModel(
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=24,
    )
    unet = MotionUNet(base, MotionConfig()).requires_grad_(False)
    randomise(unet.motion)
    return unet.double()


def inputs(num_clips=2, num_frames=4):
    g = torch.Generator().manual_seed(1)
    text, negative = torch.randn(2, num_clips, 7, 24, generator=g).double()
    noise = torch.randn(num_clips, 4, num_frames, 4, 4, generator=g)
    return Conditioning(text, negative=Conditioning(negative)), noise


def run(unet, told, noise, **settings):
    return sample(unet, DDIM, told, noise, **{"num_inference_steps": 4, "guidance_scale": SCALE} | settings)


def test_each_step_takes_the_features_of_the_last_whole_one(unet):
    told, noise = inputs(1)
    expected, scheduler = noise, DDIM.begin(4)
    deep = {}
    for step, t in enumerate(scheduler.timesteps):
        if step % 3 == 0:
            deep = {name: DeepFeatures(2) for name in ("negative", "positive")}
        negative = unet(expected.double(), t, told.negative, deep["negative"]).float()
        positive = unet(expected.double(), t, Conditioning(told.text), deep["positive"]).float()
        expected = scheduler.step(negative + SCALE * (positive - negative), t, expected).prev_sample
    found = run(unet, told, noise, deep_cache=DeepCache(every=3, layers=2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, run(unet, told, noise), atol=1e-2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context": Context(length=3, overlap=2)},
        {"context": Context(length=3, overlap=2), "loop": True},
        {"guidance_every": 2, "guidance_interval": GuidanceInterval(end=0.8)},
    ],
    ids=str,
)
def test_a_clip_is_its_own_whatever_it_shares_its_calls_with(unet, settings):
    told, noise = inputs()
    settings = settings | {"deep_cache": DeepCache(every=2, layers=2)}
    expected = run(unet, told, noise, **settings)
    for max_batch in (1, 3):
        torch.testing.assert_close(
            run(unet, told, noise, max_batch=max_batch, **settings), expected, rtol=1e-4, atol=1e-4
        )
    alone = run(unet, told.rows([1]), noise[1:2], **settings)
    torch.testing.assert_close(alone, expected[1:2], rtol=1e-4, atol=1e-4)


def test_a_cache_that_every_step_renews_changes_nothing(unet, monkeypatch):
    told, noise = inputs(1)
    monkeypatch.setattr(Conditioning, "changes", lambda self, num_steps: frozenset(range(num_steps)))
    assert torch.equal(run(unet, told, noise, deep_cache=DeepCache(every=5, layers=2)), run(unet, told, noise))


def test_a_window_that_moves_has_no_features_to_take_again(unet):
    told, noise = inputs(1)
    with pytest.raises(UserError, match="a loop of one window begins elsewhere at each step: leave deep_cache away"):
        run(unet, told, noise, loop=True, deep_cache=DeepCache())
