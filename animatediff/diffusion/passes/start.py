"""What clips are sampled from, where that is not noise alone: a picture, a video, or the same clip at another size."""

from dataclasses import dataclass

from torch import Tensor

from animatediff.diffusion.passes.strength import num_kept_steps


@dataclass(frozen=True)
class Start:
    """Clean clips, noised and denoised again by the last steps alone."""

    latents: Tensor
    """(b c f h w), multiplied by the VAE's scaling factor."""
    strength: float
    """Share in [0, 1] of the denoising steps that are taken. At 0 the clips stay as they are; at 1 all steps are taken,
    and what of the clips a schedule leaves at its first timestep is still there."""

    def first_step(self, num_inference_steps: int) -> int:
        """Return the first step that is taken, counted from 0."""
        return num_inference_steps - num_kept_steps(num_inference_steps, self.strength)
