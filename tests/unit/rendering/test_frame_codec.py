"""How many frames a VAE takes at once, and in which precision."""

import pytest
import torch
from diffusers import AutoencoderKL

from animatediff.rendering import frame_codec
from animatediff.rendering.frame_codec import FrameCodec
from animatediff.sprites.models.parts import make_vae


@pytest.fixture
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_vae([8, 8, 8, 8], latent_channels=4, norm_num_groups=4)


@pytest.fixture
def calls(vae, monkeypatch):
    """Frames and precision of each call of the VAE, or of a copy of it."""
    found = []
    for name in ("encode", "decode"):
        real = getattr(AutoencoderKL, name)

        def noted(self, given, real=real):
            found.append((len(given), given.dtype))
            return real(self, given)

        monkeypatch.setattr(AutoencoderKL, name, noted)
    return found


def numbers(calls):
    return [number for number, _ in calls]


@torch.no_grad()
def test_larger_frames_are_fewer_at_once(vae, calls, monkeypatch):
    codec, latents, pixels = FrameCodec(vae, 1.0), torch.randn(10, 4, 2, 2), torch.rand(10, 3, 16, 16)
    eight, encoded = codec.decode(latents).astype(int), codec.encode(pixels)
    assert numbers(calls) == [8, 2, 8, 2]
    calls.clear()
    monkeypatch.setattr(frame_codec, "_PIXELS_PER_CALL", 3 * 16 * 16)
    assert abs(codec.decode(latents) - eight).max() <= 1  # a convolution may round by its number of rows
    torch.testing.assert_close(codec.encode(pixels), encoded)
    assert numbers(calls) == [3, 3, 3, 1] * 2
    calls.clear()
    codec.decode(torch.randn(2, 4, 8, 8))
    assert numbers(calls) == [1, 1]


@torch.no_grad()
def test_what_overflows_is_tried_in_half_precision_once_a_clip(vae, calls):
    vae.decoder.conv_in.weight.mul_(3e5)
    codec = FrameCodec(vae.half(), 1.0)
    latents = torch.randn(20, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    found = codec.decode(latents)
    assert calls == [(8, torch.float16), (8, torch.float32), (8, torch.float32), (4, torch.float32)]
    assert vae.dtype == torch.float16
    calls.clear()
    assert (codec.decode(latents) == found).all()
    assert calls[0] == (8, torch.float16)  # each clip is its own: what another took does not decide its pixels
