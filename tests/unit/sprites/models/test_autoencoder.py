"""The first stage's latents are normalised channel by channel, and its pictures are none the worse for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from animatediff.sprites.models import autoencoder
from animatediff.sprites.models.autoencoder import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    _normalise,
    encode_stills,
    to_pixels,
    train_vae,
)
from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.models.parts import make_vae
from animatediff.sprites.scenes.stills import draw_stills

PLAN = Fit(num_steps=4, lr=1e-3, warmup=1)


@pytest.fixture(scope="module")
def pictures():
    return draw_stills(40, seed=3).pixels


@pytest.fixture
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = make_vae([8, 8, 16, 16], latent_channels=5, norm_num_groups=4)
    with torch.no_grad():  # channels far from normal, each in its way
        vae.quant_conv.bias[:5] = torch.tensor([3.0, -2.0, 0.0, 10.0, 0.5])
        vae.quant_conv.weight[:5] *= torch.tensor([0.1, 1.0, 5.0, 20.0, 0.5])[:, None, None, None]
    return vae


@torch.no_grad()
def reconstruct(vae, pictures):
    """(n 3 h w) by the posterior's mean, and by a draw of it."""
    posterior = vae.encode(to_pixels(pictures)).latent_dist
    draw = posterior.sample(torch.Generator().manual_seed(0))
    return vae.decode(posterior.mean).sample, vae.decode(draw).sample


def killed_after(num_calls, function):
    calls = iter(range(num_calls))

    def call(*args):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*args)

    return call


def assert_normal(latents, **tolerance):
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(latents.shape[1]), rtol=0, **tolerance)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(latents.shape[1]), rtol=0, **tolerance)


def test_normalised_latents_have_zero_mean_and_unit_variance_in_every_channel(vae, pictures):
    assert encode_stills(vae, pictures).mean(dim=(0, 2, 3)).abs().max() > 1
    _normalise(vae, pictures)
    assert_normal(encode_stills(vae, pictures), atol=1e-3)
    assert vae.config.scaling_factor == 1.0


def test_normalising_changes_no_picture(vae, pictures):
    before = reconstruct(vae, pictures)
    _normalise(vae, pictures)
    for now, then in zip(reconstruct(vae, pictures), before, strict=True):
        assert then.std() > 0.01
        torch.testing.assert_close(now, then, atol=1e-4, rtol=0)


def test_normalising_twice_is_the_same_as_once(vae, pictures):
    _normalise(vae, pictures)
    latents = encode_stills(vae, pictures)
    _normalise(vae, pictures)
    torch.testing.assert_close(encode_stills(vae, pictures), latents, atol=1e-3, rtol=0)


def test_a_trained_vae_is_normalised_over_plain_pictures():
    state = torch.random.get_rng_state()
    vae, seconds = train_vae(seed=5, plan=PLAN, num_pictures=30)
    latents = encode_stills(vae, draw_stills(30, seed=6).pixels)
    assert latents.shape == (30, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    assert_normal(latents, atol=0.01)
    assert not vae.training
    assert seconds > 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_killed_training_goes_on_where_it_was_and_ends_the_same(tmp_path, monkeypatch):
    whole, _ = train_vae(seed=0, plan=PLAN, num_pictures=30)
    settings = {"seed": 0, "plan": replace(PLAN, checkpoint_every=2), "num_pictures": 30}
    settings["checkpoint"] = tmp_path / "vae.pt"
    with monkeypatch.context() as patch:
        patch.setattr(autoencoder, "_loss", killed_after(3, autoencoder._loss))
        with pytest.raises(KeyboardInterrupt):
            train_vae(**settings)
    resumed, _ = train_vae(**settings)
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name


def test_batches_do_not_change_the_latents(vae, pictures):
    one, many = (encode_stills(vae, pictures, batch_size=size) for size in (64, 7))
    torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


def test_pixels_lie_between_minus_one_and_one():
    pictures = np.array([[[[0, 255, 51]]]], np.uint8)
    assert to_pixels(pictures)[0, :, 0, 0].tolist() == pytest.approx([-1, 1, -0.6])
