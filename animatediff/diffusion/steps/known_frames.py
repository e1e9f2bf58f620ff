"""Frames of clips that are given: they are put back at each denoising step, with as much noise as the others have."""

import torch
from torch import Tensor

from animatediff.diffusion.samplers import Scheduler


class KnownFrames:
    """Puts the given frames of clips in the place of what is sampled there.

    The others see them clean enough to go by, at every noise level; nothing that is predicted of them counts. This is
    how inpainting keeps what is not masked (Lugmayr et al., arXiv 2201.09865, equation 8, without its resampling).

    Args:
        known: (b c+1 f h w), the latents of given frames, and last a channel that is 1 there, and 0 in other frames.
        noise: (b c f h w), what the clips begin from; of one draw for all steps.
    """

    def __init__(self, known: Tensor, noise: Tensor) -> None:
        self._latents, self._is_known = known[:, :-1].to(noise), known[:, -1:].bool()
        self._noise = noise

    def put_into(self, latents: Tensor, scheduler: Scheduler, timestep: Tensor) -> Tensor:
        """Return latents before a step with the given frames as noisy as these.

        Args:
            latents: (b c f h w).
            scheduler: at that step.
            timestep: the step's, on the CPU.
        """
        # Both shares as numbers: the scheduler's own tables on a GPU would be waited for.
        zero, one = torch.zeros(1), torch.ones(1)
        share, noise_share = (
            scheduler.add_noise(clean, noise, timestep[None]).item() for clean, noise in ((one, zero), (zero, one))
        )
        return torch.where(self._is_known, share * self._latents + noise_share * self._noise, latents)

    def put_clean_into(self, latents: Tensor) -> Tensor:
        """Return sampled latents (b c f h w) with the given frames as they are."""
        return torch.where(self._is_known, self._latents, latents)
