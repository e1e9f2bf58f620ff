"""The model to train: a frozen base with fresh motion modules, or with ones read from a file."""

from typing import Any, Self

import torch
from diffusers import UNet2DConditionModel
from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig, Version
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.weights import motion_modules
from animatediff.weights.base import load_config, load_unet


class ModelConfig(Config):
    """Which motion modules are trained."""

    version: Version | None = None
    """Published version whose shape fresh motion modules have; default: v3."""
    motion_module: str | None = None
    """Motion module file to start from, at any URI; it brings its own shape. Default: fresh ones, zero output."""
    num_heads: int | None = Field(None, ge=1)
    """Attention heads; default: the version's 8."""
    norm_num_groups: int | None = Field(None, ge=1)
    """Groups of the motion modules' norms; default: the base's own (32 in Stable Diffusion, as published)."""
    max_frames: int | None = Field(None, ge=1, le=4096)
    """Length of the position table; default: the version's (24 in v1, else 32)."""

    @model_validator(mode="after")
    def _file_brings_its_shape(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if self.motion_module is not None and len(given) > 1:
            shapes = ", ".join(f"model.{name}" for name in given if name != "motion_module")
            raise ValueError(f"model.motion_module brings its own shape: leave out {shapes}")
        return self

    def motion_config(self, base_config: dict[str, Any]) -> MotionConfig:
        """The shape of fresh motion modules on a base.

        Args:
            base_config: the base UNet's config.
        """
        own = {"num_heads": self.num_heads, "max_frames": self.max_frames}
        own["norm_num_groups"] = self.norm_num_groups or base_config.get("norm_num_groups")
        update = {name: value for name, value in own.items() if value is not None}
        return MotionConfig.for_version(self.version or "v3").model_copy(update=update)


def check_fit(model: ModelConfig, base: str, latent_shape: tuple[int, int, int, int]) -> None:
    """Find out before any worker starts whether model, base and data go together. No base weight is read.

    Args:
        model: the motion modules.
        base: the Stable Diffusion base.
        latent_shape: (f c h w) of the dataset's clips.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    config = load_config(base, "unet")
    num_frames, channels = latent_shape[:2]
    if channels != config["in_channels"]:
        raise UserError(
            f"the dataset's latents have {channels} channels, the UNet of base {base} takes {config['in_channels']}: "
            "was the dataset encoded with another base's VAE?"
        )
    motion = _fitting_config(config, model, base)
    if motion.use_positions and num_frames > motion.max_frames:
        raise UserError(
            f"the dataset's clips have {num_frames} frames, the motion module's position table has "
            f"{motion.max_frames}: raise model.max_frames or ingest shorter clips"
        )


def build(model: ModelConfig, base: str, *, seed: int) -> MotionUNet:
    """The model on the CPU in float32: the base frozen, the motion modules to be trained.

    Args:
        model: the motion modules.
        base: the Stable Diffusion base.
        seed: of fresh motion modules' weights.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    unet = load_unet(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MotionUNet(unet, _motion_for(unet, model, base).requires_grad_(True)).train()


def place(unet: MotionUNet, device: torch.device) -> torch.dtype:
    """Move the model to its device: the frozen base in the precision of its matrix products, the motion in float32.

    Returns:
        That precision, to be used under autocast: bfloat16 on a GPU that has it, else float32.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if has_bf16 else torch.float32
    unet.base.to(device, dtype)
    unet.motion.to(device, torch.float32)
    return dtype


def _fitting_config(base_config: dict[str, Any], model: ModelConfig, base: str) -> MotionConfig:
    """The config of motion modules that fit the base; no weight is read or made."""
    if model.motion_module is not None:
        file = motion_modules.open_file(model.motion_module)
        motion_modules.check_fits(file, base_config, base)
        return file.config
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(base_config)
        return _fresh(unet, model.motion_config(base_config), base).config


def _motion_for(unet: UNet2DConditionModel, model: ModelConfig, base: str) -> MotionModules:
    """Motion modules that fit the base, fresh (drawn from torch's generator) or from the file."""
    if model.motion_module is None:
        return _fresh(unet, model.motion_config(dict(unet.config)), base)
    file = motion_modules.open_file(model.motion_module)
    motion_modules.check_fits(file, dict(unet.config), base)
    return file.build()


def _fresh(unet: UNet2DConditionModel, config: MotionConfig, base: str) -> MotionModules:
    try:
        return MotionModules.for_base(unet, config)
    except ValueError as error:
        raise UserError(f"base {base} cannot carry the motion modules: {error}") from error
