"""Cross-attentions that read images beside the text: whose weights are asked, and what is added."""

import logging
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.image_processor import IPAdapterMaskProcessor
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import nn

from animatediff.diffusion.conditioning import Conditioning, ImagePrompt
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.text_attention import SharedTextAttention

NUM_FRAMES = 3
SD = {"sample_size": 8, "block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 8}


class Reader(nn.Module):
    """An adapter with random weights for every cross-attention; it keeps which were asked, and for how many rows."""

    def __init__(self, base):
        super().__init__()
        layers = enumerate(name.removesuffix(".processor") for name in base.attn_processors)
        widths = {i: base.get_submodule(name).to_q.out_features for i, name in layers if name.endswith("attn2")}
        self.layers = nn.ModuleDict({str(i): nn.Linear(24, 2 * width) for i, width in widths.items()})
        self.asked = []

    def forward(self, layer, tokens):
        self.asked.append((layer, len(tokens)))
        return self.layers[str(layer)](tokens).chunk(2, dim=-1)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return MotionUNet(UNet2DConditionModel(**SD), MotionConfig()).double()


@pytest.fixture
def adapter(unet):
    torch.manual_seed(1)
    return Reader(unet.base).double()


def random(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predict(unet, *images, text=None):
    told = Conditioning(random(2, 7, 24) if text is None else text, image_prompts=images)
    with torch.no_grad():
        return unet(random(2, 4, NUM_FRAMES, 4, 8, seed=3), 500, told)


def test_each_cross_attention_asks_for_its_number_once_a_clip(unet, adapter):
    predict(unet, ImagePrompt(adapter, random(2, 4, 24), 1.0))
    down, mid, up = range(1, 13, 2), [31], range(13, 31, 2)
    assert adapter.asked == [(layer, 2) for layer in (*down, *mid, *up)]


def test_self_attentions_take_images_silently(unet, adapter, monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, "warning", lambda logger, *args: said.append(args))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(unet, ImagePrompt(adapter, random(2, 4, 24), 1.0, torch.ones(2, 4, 8)))
    assert said == []


def test_scale_0_is_no_image_bit_for_bit(unet, adapter):
    for text in (random(2, 7, 24), random(2, NUM_FRAMES, 7, 24)):
        off = predict(unet, ImagePrompt(adapter, random(2, 4, 24), 0.0), text=text)
        assert torch.equal(off, predict(unet, text=text))
    assert adapter.asked == []


def test_the_same_image_in_every_frame_is_one_image(unet, adapter):
    tokens = random(2, 4, 24)
    one = predict(unet, ImagePrompt(adapter, tokens, 0.7))
    per_frame = predict(unet, ImagePrompt(adapter, tokens[:, None].expand(-1, NUM_FRAMES, -1, -1), 0.7))
    torch.testing.assert_close(per_frame, one)
    assert (one - predict(unet)).abs().max() > 1e-3


def test_an_image_a_frame_is_that_frames_alone(unet, adapter):
    tokens = random(2, NUM_FRAMES, 4, 24)
    found = predict(unet, ImagePrompt(adapter, tokens, 0.7))
    for frame in range(NUM_FRAMES):  # fresh motion modules mix none
        one = predict(unet, ImagePrompt(adapter, tokens[:, frame], 0.7))
        torch.testing.assert_close(found[:, :, frame], one[:, :, frame])


def test_a_text_a_frame_goes_with_an_image_a_clip(unet, adapter):
    text, image = random(2, NUM_FRAMES, 7, 24), ImagePrompt(adapter, random(2, 4, 24), 0.7)
    found = predict(unet, image, text=text)
    for frame in range(NUM_FRAMES):
        one = predict(unet, image, text=text[:, frame])
        torch.testing.assert_close(found[:, :, frame], one[:, :, frame])


def test_nothing_of_an_image_stays(unet, adapter):
    before, names = predict(unet), list(unet.state_dict())
    predict(unet, ImagePrompt(adapter, random(2, 4, 24), 1.0))
    assert torch.equal(predict(unet), before)
    assert list(unet.state_dict()) == names


def test_two_at_half_the_scale_are_one(unet, adapter):
    image = ImagePrompt(adapter, random(2, 4, 24), 0.4)
    torch.testing.assert_close(predict(unet, image, image), predict(unet, replace(image, scale=0.8)))


def test_a_mask_says_where_the_image_counts(unet, adapter):
    image = ImagePrompt(adapter, random(2, 4, 24), 0.7)
    everywhere, nowhere = (replace(image, mask=torch.full((2, 32, 64), value)) for value in (1.0, 0.0))
    torch.testing.assert_close(predict(unet, everywhere), predict(unet, image))
    torch.testing.assert_close(predict(unet, nowhere), predict(unet))
    of_one_clip = predict(unet, replace(image, mask=torch.stack([torch.ones(32, 64), torch.zeros(32, 64)])))
    torch.testing.assert_close(of_one_clip, torch.stack([predict(unet, image)[0], predict(unet)[1]]))


@torch.no_grad()
def test_a_masked_image_is_what_diffusers_processor_gives():
    torch.manual_seed(0)
    attention = Attention(32, cross_attention_dim=24, heads=4, dim_head=8)
    theirs = IPAdapterAttnProcessor2_0(32, 24, num_tokens=(4,), scale=0.7)
    x, text, tokens, mask = (torch.randn(*shape) for shape in ((2, 128, 32), (2, 7, 24), (2, 4, 24), (2, 64, 128)))
    mask = (mask > 0).float()

    def adapter(layer, tokens):
        return theirs.to_k_ip[0](tokens), theirs.to_v_ip[0](tokens)

    image = ImagePrompt(adapter, tokens, 0.7, mask).resized(8, 16)
    ours = SharedTextAttention(1)(attention, x, text, image_prompts=[image])
    for clip in range(2):
        row = slice(clip, clip + 1)
        told = (text[row], [tokens[row][:, None]])
        expected = theirs(attention, x[row], told, ip_adapter_masks=[mask[row][:, None]])
        torch.testing.assert_close(ours[row], expected)


@pytest.mark.parametrize("size", [(64, 64), (32, 16), (9, 9)], ids=str)
def test_a_mask_is_resized_as_in_diffusers(size):
    mask = (random(1, 512, 512) > 0).double()
    image = ImagePrompt(nn.Identity(), random(1, 4, 24), 1.0, mask[:, : 512 * size[0] // max(size)])
    image = replace(image, mask=image.mask[:, :, : 512 * size[1] // max(size)])
    expected = IPAdapterMaskProcessor.downsample(image.mask.float(), 1, size[0] * size[1], 1)
    assert torch.equal(image.resized(*size).mask.flatten(1), expected[..., 0])
