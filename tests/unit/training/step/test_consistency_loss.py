"""The student is asked where the guided teacher's step and its own next one lead, and nothing where that is known."""

import pytest
import torch

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import classifier_free_guidance
from animatediff.diffusion.schedule import add_noise, compute_alphas_cumprod
from animatediff.training.distill_settings import DistillConfig
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.consistency_loss import ConsistencyLoss
from animatediff.training.step.draws import Draws

SHAPE = (4, 3, 2, 4, 4)
ALPHAS = compute_alphas_cumprod(NoiseSchedule())
LEVELS_OF_8 = {"num_inference_steps": 8, "teacher_steps": 40, "guidance_scale": 5.0}
TOLD = Conditioning(torch.ones(4, 2, 6), negative=Conditioning(-torch.ones(4, 2, 6)))


def draws_at(*timesteps, uniform=(0.0, 0.0, 0.0, 0.0)):
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return Draws(noise, torch.tensor(timesteps), [False] * 4, [0] * 4, [[0]] * 4, torch.tensor(uniform))


def loss_of(student, teacher, target, draws, latents=None, objective=None, **config):
    config = DistillConfig(**(LEVELS_OF_8 | config))
    loss = ConsistencyLoss(ALPHAS, "epsilon", objective or ObjectiveConfig(), config)
    clips = torch.zeros(SHAPE) if latents is None else latents
    return loss(student, teacher, target, clips, TOLD, draws)


def noise_in(clips):
    """Who knows the clips knows the noise."""

    def predict(noisy, timesteps, _):
        kept = ALPHAS[timesteps].reshape(-1, 1, 1, 1, 1)
        return (noisy - kept.sqrt() * clips.repeat(len(noisy) // len(clips), 1, 1, 1, 1)) / (1 - kept).sqrt()

    return predict


@pytest.mark.parametrize("sampler", ["lcm", "euler"])
@pytest.mark.parametrize("objective", [None, ObjectiveConfig(fade_from=600)])
def test_who_knows_the_clip_has_no_loss_and_a_guess_has_one(sampler, objective):
    clips, draws = torch.randn(SHAPE), draws_at(999, 700, 480, 10)
    knows = noise_in(clips)
    assert loss_of(knows, knows, knows, draws, clips, objective, sampler=sampler).max() < 1e-4
    guesses = loss_of(lambda *a: knows(*a) + 1, knows, knows, draws, clips, objective, sampler=sampler)
    assert guesses.min() > 0.05


def test_the_targets_clip_is_where_the_sampler_takes_the_guided_teachers():
    """The teacher says each branch's own; DDIM's step, with the guidance that `sample` has, must lead there."""
    seen = {}

    def teacher(noisy, timesteps, told):
        seen["teacher"] = noisy[:4], timesteps[:4]
        return told.text.mean(dim=(1, 2)).reshape(-1, 1, 1, 1, 1) * (1 + noisy)

    def target(noisy, timesteps, told):
        assert torch.equal(told.text, TOLD.text)
        seen["target"] = noisy, timesteps
        return noisy

    loss_of(lambda noisy, *_: noisy, teacher, target, draws_at(999, 999, 999, 999))
    noisy, timesteps = seen["teacher"]
    torch.testing.assert_close(noisy, add_noise(torch.zeros(SHAPE), draws_at(0, 0, 0, 0).noise, timesteps, ALPHAS))
    scheduler = SAMPLERS["ddim"](NoiseSchedule(), "trailing").begin(40)
    guided = classifier_free_guidance(-1 - noisy, 1 + noisy, 5.0)
    torch.testing.assert_close(seen["target"][0], scheduler.step(guided, 999, noisy).prev_sample, rtol=1e-4, atol=1e-4)
    assert seen["target"][1].tolist() == [974] * 4 == [scheduler.timesteps[1]] * 4


@pytest.mark.parametrize(("sampler", "known"), [("lcm", [0]), ("euler", [0, 130, 880])])
def test_where_a_step_ends_the_target_is_the_teachers_clip_itself(sampler, known):
    """Level 1 ends at clean latents; of 40 levels to 8 steps, so do 5 and 35 at the timesteps 124 and 874."""
    knows, others = noise_in(torch.zeros(SHAPE)), [60, 200, 490, 990]
    for timesteps in ([t, *others[1:]] for t in known):
        first, second = (
            loss_of(knows, knows, lambda noisy, *_, by=by: noisy * by, draws_at(*timesteps), sampler=sampler)
            for by in (1, 2)
        )
        assert torch.equal(first[0], second[0])
        assert not torch.isclose(first[1:], second[1:]).any()


def test_every_clip_has_a_guidance_scale_of_its_own_of_the_range():
    scales = []

    def teacher(noisy, _, told):
        return told.text.mean(dim=(1, 2)).clamp(min=0).reshape(-1, 1, 1, 1, 1).expand_as(noisy)

    def target(noisy, *_):
        scales.append(noisy)
        return noisy

    for guidance, uniform in (((2.0, 6.0), (0.0, 0.5, 0.75, 0.25)), (5.0, (0.1, 0.2, 0.3, 0.4))):
        loss_of(lambda n, *_: n, teacher, target, draws_at(*[500] * 4, uniform=uniform), guidance_scale=guidance)
    # What is not guided is 0 here, so that the noise that a step is led by is the guidance scale.
    of_range, of_one = scales
    ratio = [(clip - other).mean() for clip, other in zip(of_range, of_one, strict=True)]
    by_scale = ratio[0] / (2 - 5)
    assert torch.tensor(ratio).div(by_scale).tolist() == pytest.approx([-3, -1, 0, -2], abs=1e-3)


def test_steps_that_are_sampled_with_guidance_learn_from_a_teacher_without():
    """Of 8 steps the last 4: of the timesteps, those up to 499."""
    seen = []

    def teacher(noisy, _, told):
        return told.text.mean(dim=(1, 2)).clamp(min=0).reshape(-1, 1, 1, 1, 1).expand_as(noisy)

    def target(noisy, *_):
        seen.append(noisy)
        return noisy

    settings: list[dict] = [{"sampled_guidance": {"start": 0.5}}, {"guidance_scale": 5.0}, {"guidance_scale": 1.0}]
    for each in settings:
        loss_of(lambda n, *_: n, teacher, target, draws_at(999, 500, 499, 0), **each)
    left_out, guided, unguided = seen
    assert not torch.isclose(guided, unguided).all(dim=(1, 2, 3, 4)).any()
    assert torch.equal(left_out, torch.cat([guided[:2], unguided[2:]]))


def test_only_the_student_learns():
    weight = torch.ones((), requires_grad=True)
    loss_of(lambda n, *_: n * weight, lambda n, *_: n * weight.detach(), lambda n, *_: n * 2, draws_at(1, 2, 3, 4))
    losses = [
        loss_of(*(lambda n, *_, by=by: n * by for by in roles), draws_at(300, 400, 500, 600)).sum()
        for roles in ((weight, 1, 1), (1, weight, 1), (1, 1, weight))
    ]
    assert [loss.requires_grad for loss in losses] == [True, False, False]


def test_the_loss_goes_over_from_squares_to_absolute_values():
    known = noise_in(torch.zeros(SHAPE))
    small, large = (
        loss_of(lambda *a, by=by: known(*a) + by, known, known, draws_at(*[600] * 4), huber_c=0.5) for by in (1e-3, 1e3)
    )
    twice_small, twice_large = (
        loss_of(lambda *a, by=by: known(*a) + by, known, known, draws_at(*[600] * 4), huber_c=0.5) for by in (2e-3, 2e3)
    )
    torch.testing.assert_close(twice_small / small, torch.full((4,), 4.0), rtol=0.05, atol=0)
    torch.testing.assert_close(twice_large / large, torch.full((4,), 2.0), rtol=0.01, atol=0)
