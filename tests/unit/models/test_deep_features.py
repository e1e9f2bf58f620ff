"""What the UNet computes of its layers when it is given what the deep ones found before."""

from dataclasses import replace

import pytest
import torch

from animatediff.diffusion.conditioning import Control
from animatediff.diffusion.residuals import Residuals
from animatediff.diffusion.steps.deep_features import DeepFeatures
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from tests.unit.models.test_motion import make_inputs, make_unet, randomise


def make_motion_unet(version):
    unet = MotionUNet(make_unet(version), MotionConfig.for_version(version)).requires_grad_(False)
    randomise(unet.motion)
    return unet


class Network:
    """A stand-in for a ControlNet: each residual is a number, drawn for its place."""

    def __init__(self, unet):
        self._unet = unet

    def __call__(self, sample, timestep, conditioning, condition):
        count = self._unet.num_decoder_layers
        values = torch.randn(count + 1, generator=torch.Generator().manual_seed(5)).reshape(-1, 1, 1, 1, 1)
        return Residuals(list(values[:-1]), values[-1])


def controlled(unet, told, sample):
    scale = torch.ones(sample.shape[0], sample.shape[2])
    return replace(told, controls=(Control(Network(unet), sample, scale),))


@pytest.mark.parametrize("is_controlled", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (10, 14)], ids=str)
@pytest.mark.parametrize("version", ["v1", "v2", "sdxl"])
def test_with_its_own_deep_features_a_prediction_is_the_same_at_every_split(version, size, is_controlled):
    unet = make_motion_unet(version)
    sample, timestep, told = make_inputs(version, size)
    told = controlled(unet, told, sample) if is_controlled else told
    expected = unet(sample, timestep, told)
    for num_layers in range(1, unet.num_decoder_layers):
        deep = DeepFeatures(num_layers)
        assert torch.equal(unet(sample, timestep, told, deep), expected)
        assert len(deep.features) == sample.shape[0] * sample.shape[2]
        assert torch.equal(unet(sample, timestep, told, deep), expected)


@pytest.mark.parametrize(("num_layers", "expected"), [(1, 1 + 0), (2, 2 + 1), (3, 3 + 2), (4, 4 + 2), (5, 5 + 3)])
def test_the_deep_layers_are_not_computed_again(num_layers, expected):
    """A skip of Stable Diffusion's comes from the first convolution, two layers, and a downsampler, block by block."""
    unet, num_run = make_motion_unet("v2"), 0
    sample, timestep, told = make_inputs("v2")
    deep = DeepFeatures(num_layers)
    unet(sample, timestep, told, deep)

    def count(*_):
        nonlocal num_run
        num_run += 1

    for block in (*unet.base.down_blocks, unet.base.mid_block, *unet.base.up_blocks):
        for resnet in block.resnets:
            resnet.register_forward_hook(count)
    kept = deep.features.clone()
    other = unet(sample + 0.1, timestep - 50, told, deep)
    assert num_run == expected
    assert torch.equal(deep.features, kept)
    assert not torch.equal(other, unet(sample, timestep - 50, told, deep))
    assert not torch.equal(other, unet(sample + 0.1, timestep - 50, told))
