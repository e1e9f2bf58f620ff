"""What a few-step motion module or LoRA must be sampled with, as its file says: catalogs set themselves by it."""

from collections.abc import Mapping
from typing import Any, Literal

from animatediff.config import Config
from animatediff.diffusion.steps.guidance_interval import GuidanceInterval

_KEY = "few_step"  # of a LoRA's metadata; a motion module's file has it in the entry of its config


class FewStepSampling(Config):
    """Settings by the names that they have in a catalog."""

    sampler: Literal["lcm", "euler"]
    """The way from noise to latents."""
    timestep_spacing: Literal["trailing"] | None = None
    """How the steps are spread; the sampler lcm has timesteps of its own."""
    num_inference_steps: int
    """Denoising steps."""
    guidance_scale: float = 1.0
    """1: the guidance is in the weights."""
    guidance_interval: GuidanceInterval | None = None
    """The steps whose guidance is not in the weights, where there is such guidance."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings by their names."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def __str__(self) -> str:
        """Return the settings in words."""
        return ", ".join(f"{name} {value}" for name, value in self.settings.items() if value is not None)


def lora_metadata(few_step: FewStepSampling | None) -> dict[str, str]:
    """Return the metadata of a LoRA that `of_lora` reads back."""
    return {} if few_step is None else {_KEY: few_step.model_dump_json(exclude_none=True)}


def of_lora(metadata: Mapping[str, str]) -> FewStepSampling | None:
    """Return what a LoRA's metadata says; None where it says nothing.

    Raises:
        ValueError: it cannot be read.
    """
    return FewStepSampling.model_validate_json(metadata[_KEY]) if _KEY in metadata else None
