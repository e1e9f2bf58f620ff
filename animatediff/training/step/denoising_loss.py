"""What a training step minimises: the error of the predicted noise (or velocity), clip by clip."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.noise_schedule import PredictionType
from animatediff.diffusion.schedule import add_noise, noise_that_fades_latents, velocity
from animatediff.training.settings import ObjectiveConfig
from animatediff.training.step.draws import Draws


@dataclass(frozen=True)
class DenoisingLoss:
    """The mean squared error of each clip's prediction, in float32, times the clip's weight."""

    alphas_cumprod: Tensor
    """(T) of the noise schedule, on the model's device."""
    prediction_type: PredictionType
    """What the model predicts."""
    objective: ObjectiveConfig
    """What the clips weigh, and from which timestep on they fade."""

    def __call__(self, predict: NoisePredictor, latents: Tensor, conditioning: Conditioning, draws: Draws) -> Tensor:
        """Return the losses of clips; the loss of a batch is their mean.

        Args:
            predict: the model.
            latents: (b c f h w) float32 on the CPU, multiplied by the scaling factor.
            conditioning: of the clips; its dtype is the model's under autocast.
            draws: noise and timesteps.

        Returns:
            (b) on the model's device.
        """
        alphas_cumprod, device = self.alphas_cumprod, self.alphas_cumprod.device
        clean, noise, timesteps = (to_device(t, device) for t in (latents, draws.noise, draws.timesteps))
        if self.objective.fade_from is not None:
            noise = noise_that_fades_latents(
                clean, noise, timesteps, alphas_cumprod, fade_from=self.objective.fade_from
            )
        is_full = conditioning.dtype == torch.float32
        with nullcontext() if is_full else torch.autocast(device.type, conditioning.dtype):
            prediction = predict(add_noise(clean, noise, timesteps, alphas_cumprod), timesteps, conditioning)
        wanted = noise
        if self.prediction_type == "v_prediction":
            wanted = velocity(clean, noise, timesteps, alphas_cumprod)
        # One reduction a clip: one over the rows of a batch rounds differently for different numbers of clips.
        losses = torch.stack([F.mse_loss(p, w) for p, w in zip(prediction.float(), wanted, strict=True)])
        if self.objective.min_snr_gamma is None:
            return losses
        return losses * min_snr_weights(alphas_cumprod[timesteps], self.objective.min_snr_gamma, self.prediction_type)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Move a CPU tensor; to a GPU through pinned memory, without waiting."""
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def min_snr_weights(alphas_cumprod: Tensor, gamma: float, prediction_type: PredictionType) -> Tensor:
    """Return the min-SNR weights of the loss, converted from the clean latents to what the model predicts.

    Args:
        alphas_cumprod: (b) the share of the signal's variance at each clip's timestep, in [0, 1).
        gamma: the highest weight of an error of the clean latents.
        prediction_type: what the model predicts.

    Returns:
        (b) min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1)


def sums_by_timestep_quarter(losses: Tensor, timesteps: Tensor, num_timesteps: int) -> Tensor:
    """Return the sums to log the loss by quarters of the timesteps, from the clean to the noisy end, without gradients.

    They add up over workers and steps.

    Args:
        losses: (b) of the clips; those that are not finite are left out.
        timesteps: (b) integers, on the CPU or the losses' device.
        num_timesteps: timesteps of the noise schedule.

    Returns:
        (2 4) in the losses' dtype: the sum of the losses, and the number of clips, of each quarter.
    """
    quarters = to_device(timesteps, losses.device) * 4 // num_timesteps
    is_in = (quarters[:, None] == torch.arange(4, device=losses.device)) & losses.isfinite()[:, None]
    # Not a product: a loss that is not finite would spoil all quarters.
    sums = torch.where(is_in, losses.detach()[:, None], 0.0).sum(dim=0)
    return torch.stack([sums, is_in.sum(dim=0).to(losses.dtype)])
