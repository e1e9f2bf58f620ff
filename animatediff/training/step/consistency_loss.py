"""What distillation minimises: how far a student's one step misses where the teacher's step and its own next one lead.

Consistency distillation (Song et al., arXiv 2303.01469), in latents and with guidance (Luo et al., arXiv 2310.04378).
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.noise_schedule import PredictionType
from animatediff.diffusion.sampling import classifier_free_guidance
from animatediff.diffusion.schedule import add_noise, noise_that_fades_latents
from animatediff.diffusion.steps.consistency import Levels, clean_and_noise, ddim_step, for_clips, lcm_guess
from animatediff.training.distill_settings import DistillConfig
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.denoising_loss import to_device
from animatediff.training.step.draws import Draws


@dataclass(frozen=True)
class ConsistencyLoss:
    """The pseudo-Huber distance between a student's guess and its target, clip by clip, in float32.

    With the teacher's levels of noise 0 (none) to K (the most), a clip at level i, x_i, and the level e(i) < i that a
    sampling step leads to:

        x_(i-1) = DDIM step of the guided teacher from x_i
        f(x, i) = the student's guess at level e(i); f(x, e(i)) = x
        L       = mean(sqrt(d^2 + c^2) - c),    d = f(x_i, i) - f'(x_(i-1), i-1)

    f' is the student with its averaged weights, where the run keeps any, and has no gradient.
    """

    alphas_cumprod: Tensor
    """(T) of the noise schedule, on the model's device."""
    prediction_type: PredictionType
    """What the model predicts."""
    objective: ObjectiveConfig
    """From which timestep on the clips fade."""
    config: DistillConfig

    def __call__(
        self,
        student: NoisePredictor,
        teacher: NoisePredictor,
        target: NoisePredictor,
        latents: Tensor,
        conditioning: Conditioning,
        draws: Draws,
    ) -> Tensor:
        """Return the losses of clips; the loss of a batch is their mean.

        Args:
            student: what learns.
            teacher: what it learns from.
            target: the student, or the average of its weights.
            latents: (b c f h w) float32 on the CPU, multiplied by the scaling factor.
            conditioning: of the clips, with the empty caption as their negative one; its dtype is the models' under
                autocast.
            draws: noise, timesteps, and shares of the range of guidance scales.

        Returns:
            (b) on the model's device.
        """
        device = self.alphas_cumprod.device
        levels = Levels(self.alphas_cumprod, self.config.teacher_steps)
        clean, noise, share = (to_device(t, device) for t in (latents, draws.noise, draws.uniform))
        upper = levels.of_timesteps(to_device(draws.timesteps, device))
        lower, end = upper - 1, self._ends(upper)
        timesteps = levels.timesteps(upper)
        if self.objective.fade_from is not None:
            noise = noise_that_fades_latents(
                clean, noise, timesteps, self.alphas_cumprod, fade_from=self.objective.fade_from
            )
        noisy = add_noise(clean, noise, timesteps, self.alphas_cumprod)
        negative, positive = conditioning.guidance_branches(is_guided=True)
        scales = for_clips(self._guidance_scales(share, end), noisy)
        is_full = conditioning.dtype == torch.float32
        with nullcontext() if is_full else torch.autocast(device.type, conditioning.dtype):
            with torch.no_grad():
                both = teacher(noisy.repeat(2, 1, 1, 1, 1), timesteps.repeat(2), Conditioning.cat([negative, positive]))
                away, towards = both.float().chunk(2)
                guided = classifier_free_guidance(away, towards, scales)
                found = clean_and_noise(noisy, guided, levels.alphas(upper), self.prediction_type)
                nearer = ddim_step(*found, levels.alphas(lower))
                prediction = target(nearer, levels.timesteps(lower), positive).float()
                wanted = self._guess(nearer, prediction, levels, lower, end)
            guess = self._guess(noisy, student(noisy, timesteps, positive).float(), levels, upper, end)
        c = self.config.huber_c
        # One reduction a clip: one over the rows of a batch rounds differently for different numbers of clips.
        return torch.stack([((d**2 + c**2).sqrt() - c).mean() for d in guess - wanted])

    def _ends(self, levels: Tensor) -> Tensor:
        """Return the level below each that a sampling step leads to; LCM's guesses are of no noise."""
        if self.config.sampler == "lcm":
            return torch.zeros_like(levels)
        stride = self.config.teacher_steps // self.config.num_inference_steps
        return (levels - 1) // stride * stride

    def _guess(self, sample: Tensor, prediction: Tensor, levels: Levels, level: Tensor, end: Tensor) -> Tensor:
        """Return the guess of clips at the level `end`, by what is predicted of them at `level`, (b c f h w)."""
        clean, noise = clean_and_noise(sample, prediction, levels.alphas(level), self.prediction_type)
        if self.config.sampler == "lcm":
            guess = lcm_guess(sample, clean, levels.timesteps(level))
        else:
            guess = ddim_step(clean, noise, levels.alphas(end))
        # There is nothing to guess where it is known. DDIM's step gives it back but for its rounding.
        return torch.where(for_clips(level == end, sample), sample, guess)

    def _guidance_scales(self, share: Tensor, ends: Tensor) -> Tensor:
        """Return a guidance scale a clip, (b), by its share of the range; 1 in steps that are sampled with guidance."""
        low, high = self.config.guidance_range
        scales = low + (high - low) * share
        if self.config.sampled_guidance is None:
            return scales
        num_steps, interval = self.config.num_inference_steps, self.config.sampled_guidance.interval
        is_sampled = torch.tensor([interval.is_on(k, num_steps) for k in range(num_steps)], device=ends.device)
        # A step is told by the level that it ends at, which is 0 for the last.
        steps = num_steps - 1 - ends // (self.config.teacher_steps // num_steps)
        return scales.where(~is_sampled[steps], 1.0)
