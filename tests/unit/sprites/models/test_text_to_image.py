"""The second stage learns captions and pictures together, and can be killed."""

import numpy as np
import pytest
import torch

from animatediff.sprites.models.autoencoder import LATENT_CHANNELS
from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.models.parts import make_scheduler, make_vae
from animatediff.sprites.models.text_to_image import (
    MAX_LENGTH,
    Course,
    TextToImage,
    draw_timesteps,
    fit_captioned,
    make_tokenizer,
    refine_text_to_image,
    tokenize,
    train_text_to_image,
)
from animatediff.sprites.scenes.stills import draw_stills


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = make_vae([8, 8, 8, 8], latent_channels=LATENT_CHANNELS, norm_num_groups=4, mid_block_add_attention=False)
    vae.register_to_config(scaling_factor=1.0)
    return vae


class Recorder(TextToImage):
    """Predicts nothing, and keeps what it was asked."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.asked = []

    def forward(self, latents, timesteps, token_ids):
        self.asked.append((timesteps, token_ids))
        return latents * self.scale


def test_every_caption_fits_and_is_padded_to_one_length(tokenizer):
    token_ids = tokenize(tokenizer, draw_stills(300, seed=1).captions)
    assert token_ids.shape == (300, MAX_LENGTH)
    assert (token_ids[:, -4:] == tokenizer.eos_token_id).all()


def test_some_captions_are_dropped_and_all_timesteps_occur(tokenizer):
    token_ids = tokenize(tokenizer, ["a large red star on a black background"] * 5)
    model = Recorder()
    fit_captioned(model, torch.randn(5, 4, 8, 8), token_ids, tokenizer, Course(Fit(40, lr=1e-3), seed=0))
    timesteps = torch.cat([asked[0] for asked in model.asked])
    asked = torch.cat([asked[1] for asked in model.asked])
    dropped = (asked == tokenize(tokenizer, [""])).all(dim=1)
    assert (asked[~dropped] == token_ids[0]).all()
    assert 0.05 < dropped.float().mean() < 0.15
    assert timesteps.min() < 10
    assert timesteps.max() > 989


def test_the_noise_of_drawn_timesteps_is_distributed_log_normally():
    alphas_cumprod = make_scheduler().alphas_cumprod
    timesteps = draw_timesteps(np.random.default_rng(0), alphas_cumprod, 20_000)
    sizes = (1 / alphas_cumprod[timesteps] - 1).sqrt().log()
    # Cut at both ends of the schedule, which moves the moments a little.
    assert sizes.mean() == pytest.approx(0.4, abs=0.03)
    assert sizes.std() == pytest.approx(1.2, abs=0.06)


def test_a_seed_gives_the_same_model(vae, tokenizer):
    plan = Fit(num_steps=2, lr=1e-3, warmup=1)
    stills = draw_stills(20, seed=3)
    one, other = (train_text_to_image(vae, tokenizer, stills, Course(plan, 3))[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_refinement_goes_on_with_the_model_on_other_pictures(vae, tokenizer):
    plan = Fit(num_steps=2, lr=1e-3, warmup=1)
    model, _ = train_text_to_image(vae, tokenizer, draw_stills(20, seed=3), Course(plan, 3))
    stills = draw_stills(20, seed=4, turned=0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        refine_text_to_image(model, vae, tokenizer, stills, Course(Fit(num_steps=0, lr=1e-3), 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert refine_text_to_image(model, vae, tokenizer, stills, Course(plan, 4)) > 0
    change = max((before[name] - tensor).abs().max() for name, tensor in model.unet.named_parameters(prefix="unet"))
    assert 0 < change < 1e-2  # two steps from where it was


def test_another_loss_is_minimised_too(tokenizer):
    model = Recorder()
    asked = []

    def other_loss(step):
        asked.append(step)
        return (model.scale - 1).square()

    token_ids = tokenize(tokenizer, [""] * 4)
    plan = Fit(100, lr=0.1, warmup=1, ema_decay=0.0, weight_decay=0.0)
    # Of latents of zeros nothing is to be predicted, so that only the other loss moves the scale.
    course = Course(plan, 0, batch_size=2, auxiliary_loss=other_loss)
    fit_captioned(model, torch.zeros(4, 4, 8, 8), token_ids, tokenizer, course)
    assert asked == list(range(100))
    assert model.scale.item() == pytest.approx(1, abs=0.5)
