"""Controls: which frames, steps and branches of the guidance have them, and what is added to the UNet's features."""

import pytest
import torch
from torch import nn

from animatediff.diffusion.conditioning import Conditioning, Control, ImagePrompt
from animatediff.diffusion.context import Context
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.passes.start import Start
from animatediff.diffusion.residuals import Residuals
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample

NUM_FRAMES = 10
NUMBERS = torch.arange(float(NUM_FRAMES))


class Recorder(nn.Module):
    """Its residuals are the condition's numbers; it keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, sample, timestep, conditioning, condition):
        self.seen.append((sample, conditioning.text, condition))
        rows = condition.transpose(1, 2).flatten(0, 1).clone()
        return Residuals([rows, 2 * rows], 3 * rows)


def control(network=None, *, num_clips=1, scale=1.0, **settings):
    condition = NUMBERS[None, None, :, None, None].expand(num_clips, 1, -1, 1, 1)
    return Control(network or Recorder(), condition, torch.full((num_clips, NUM_FRAMES), scale), **settings)


def conditioning(*controls, negative=True):
    text = torch.zeros(1, 1, 1)
    return Conditioning(text, negative=Conditioning(text - 1) if negative else None, controls=controls)


def residuals_of(told):
    return told.residuals(torch.zeros(1, 4, NUM_FRAMES, 1, 1), 0)


def test_no_control_adds_nothing():
    assert residuals_of(conditioning()) is None


def test_a_frames_residuals_are_multiplied_by_its_scale():
    scaled = Control(Recorder(), control().condition, NUMBERS[None] / 10)
    found = residuals_of(conditioning(scaled))
    assert torch.allclose(found.down[1].flatten(), 2 * NUMBERS * NUMBERS / 10)
    assert torch.allclose(found.mid.flatten(), 3 * NUMBERS * NUMBERS / 10)


@pytest.mark.parametrize("guess_mode", [False, True])
def test_without_gradients_the_numbers_are_the_same_and_the_memory_is_the_networks(guess_mode):
    class Fresh(Recorder):
        def forward(self, *given):
            found = super().forward(*given)
            self.given = Residuals([one.clone() for one in found.down], found.mid.clone())
            self.kept = Residuals([one.clone() for one in found.down], found.mid.clone())
            return self.given

    class Pooled(Fresh):
        def forward(self, *given):
            down, mid = super().forward(*given)
            self.given = Residuals([one.mean(dim=(2, 3), keepdim=True) for one in down], mid)
            return self.given

    condition = torch.randn(1, 1, NUM_FRAMES, 2, 2, generator=torch.Generator().manual_seed(0))
    one, pooled = (Control(net(), condition, NUMBERS[None] / 7, guess_mode=guess_mode) for net in (Fresh, Pooled))
    told = conditioning(pooled, one)
    expected = residuals_of(told)
    assert torch.equal(one.network.given.mid, one.network.kept.mid)  # with gradients nothing is written into
    with torch.no_grad():
        found = residuals_of(told)
    for a, b in zip((*found.down, found.mid), (*expected.down, expected.mid), strict=True):
        assert torch.equal(a, b)
    assert found.down[0].data_ptr() == one.network.given.down[0].data_ptr()


def test_one_clips_rows_are_no_copy():
    told = control(num_clips=3)
    assert told.rows([1]).condition.data_ptr() == told.condition[1:].data_ptr()
    assert torch.equal(told.rows([2, 0]).condition, told.condition[[2, 0]])


def test_several_networks_are_summed():
    one, both = control(scale=0.5), residuals_of(conditioning(control(scale=0.5), control(scale=2.0)))
    alone = residuals_of(conditioning(one))
    assert torch.allclose(both.mid, 5 * alone.mid)
    assert all(torch.allclose(a, 5 * b) for a, b in zip(both.down, alone.down, strict=True))


def test_guess_mode_counts_early_residuals_less():
    found = residuals_of(conditioning(control(guess_mode=True, scale=0.8)))
    factors = [0.1 * 0.8, 10**-0.5 * 0.8 * 2, 0.8 * 3]
    for residual, factor in zip([*found.down, found.mid], factors, strict=True):
        assert torch.allclose(residual.flatten(), factor * NUMBERS)


def test_guidance_gives_both_branches_the_control_and_guess_mode_the_positive_one_alone():
    plain, guess = control(), control(guess_mode=True)
    negative, positive = conditioning(plain, guess).guidance_branches(is_guided=True)
    assert negative.controls == (plain,)
    assert positive.controls == (plain, guess)
    assert (negative.text.item(), positive.text.item()) == (-1, 0)


@pytest.mark.parametrize(
    ("start", "end", "steps", "begun"),
    [
        (0.0, 1.0, range(10), None),
        (0.0, 0.5, range(5), None),
        (0.25, 1.0, range(3, 10), None),
        (0.5, 0.5, [], None),
        (0.31, 0.79, range(4, 7), None),
        (0.5, 1.0, range(2, 4), 0.4),  # shares of the steps that are taken
    ],
)
def test_a_network_runs_in_its_steps_alone(start, end, steps, begun):
    network = Recorder()
    told = conditioning(control(network, start=start, end=end), negative=False)
    found = []

    def predict(latents, timestep, given):
        found.append(given.residuals(latents, timestep) is not None)
        return torch.zeros_like(latents)

    noise = torch.zeros(1, 4, NUM_FRAMES, 1, 1)
    settings = {"num_inference_steps": 10, "guidance_scale": 1.0, "start": begun and Start(noise, begun)}
    sample(predict, SAMPLERS["ddim"](NoiseSchedule()), told, noise, **settings)
    assert [step for step, is_on in enumerate(found) if is_on] == list(steps)
    assert len(network.seen) == len(steps)


@pytest.mark.parametrize("guess_mode", [False, True])
@pytest.mark.parametrize("max_batch", [None, 1])
def test_windows_and_guidance_give_each_frame_its_own_condition(guess_mode, max_batch):
    network = Recorder()
    told = conditioning(control(network, guess_mode=guess_mode))
    noise = NUMBERS[None, None, :, None, None].expand(1, 4, -1, 1, 1)

    def predict(latents, timestep, given):
        given.residuals(latents, timestep)
        return torch.zeros_like(latents)

    settings = {"guidance_scale": 2.0, "context": Context(length=4, overlap=2), "max_batch": max_batch}
    sample(predict, SAMPLERS["ddim"](NoiseSchedule()), told, noise, num_inference_steps=1, **settings)
    for latents, text, condition in network.seen:
        assert torch.equal(latents[:, :1], condition)
        assert set(text.flatten().tolist()) == ({0.0} if guess_mode else {0.0, -1.0})
    assert {frame for _, _, condition in network.seen for frame in condition.flatten().tolist()} == set(range(10))


def test_clips_join_if_they_are_told_the_same_kinds_of_things():
    network, adapter = Recorder(), nn.Identity()
    image = ImagePrompt(adapter, torch.arange(2.0)[:, None, None], 0.5)
    told = Conditioning(
        torch.arange(2.0)[:, None, None], controls=(control(network, num_clips=2),), image_prompts=(image,)
    )
    joined = Conditioning.cat([told.rows([1]), told.rows([0])])
    assert joined.text.flatten().tolist() == [1, 0]
    assert joined.image_prompts[0].tokens.flatten().tolist() == [1, 0]
    assert joined.controls[0].condition.shape == (2, 1, NUM_FRAMES, 1, 1)
    for other in (
        Conditioning(told.text),
        Conditioning(told.text, controls=(control(num_clips=2),), image_prompts=(image,)),  # another network
        Conditioning(told.text.expand(-1, 7, -1), controls=told.controls, image_prompts=(image,)),  # a longer text
        Conditioning(
            told.text, controls=told.controls, image_prompts=(ImagePrompt(adapter, image.tokens, 0.4),)
        ),  # another scale
    ):
        with pytest.raises(ValueError, match="do not go into one batch"):
            Conditioning.cat([told, other])


def test_an_image_of_each_frame_is_cut_to_the_window():
    tokens = NUMBERS[None, :, None, None]
    image = ImagePrompt(nn.Identity(), tokens, 1.0)
    told = Conditioning(torch.zeros(1, 1, 1), image_prompts=(image,)).frames([9, 2])
    assert told.image_prompts[0].tokens.flatten().tolist() == [9, 2]
    one = ImagePrompt(nn.Identity(), tokens[:, 0], 1.0)
    assert Conditioning(torch.zeros(1, 1, 1), image_prompts=(one,)).frames([9, 2]).image_prompts[0].tokens is one.tokens
