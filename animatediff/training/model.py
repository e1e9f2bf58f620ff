"""The model that a recipe trains: what is frozen, and what learns beside it."""

from typing import Protocol, Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError, naming
from animatediff.models.config import MotionConfig
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.training.settings import ModelConfig
from animatediff.training.text import TextEncoders
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import BaseFacts, config_name
from animatediff.weights.resident import Addition, ResidentWeights

BASE = "base"
"""What stands for the base as it is among a recipe's `base_checkpoints`."""

_PUBLISHED_RANK = {"domain_adapter": 128, "motion_lora": 64}


class ModelRecipe(Protocol):
    """The part of a `Recipe` that decides the model."""

    @property
    def base(self) -> str:
        """See `Recipe`."""

    @property
    def base_checkpoints(self) -> tuple[str, ...]:
        """See `Recipe`."""

    @property
    def model(self) -> ModelConfig:
        """See `Recipe`."""

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """See `Recipe`."""

    @property
    def result(self) -> str:
        """See `Recipe`."""


class TrainedModel(nn.Module):
    """A frozen base, and what is trained on it.

    Args:
        unet: predicts; the base's UNet alone where single frames are trained on.
        trainable: what is trained: the UNet's motion modules, or adapters on its layers.
    """

    def __init__(self, unet: MotionUNet | UNet2DConditionModel, trainable: MotionModules | LowRankAdapters) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        self.trainable = trainable.requires_grad_(True)

    @property
    def takes_single_frames(self) -> bool:
        """Whether a clip's single frames are trained on."""
        return not isinstance(self.unet, MotionUNet)

    @property
    def host(self) -> nn.Module:
        """What the adapters are on, or the motion modules themselves."""
        return self.unet.motion if isinstance(self.unet, MotionUNet) else self.unet

    def train(self, mode: bool = True) -> Self:
        """Switch what is trained; what is frozen stays in evaluation mode."""
        self.training = mode
        self.trainable.train(mode)
        return self

    def forward(self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict.

        Args:
            sample: (b c f h w) noisy latents.
            timesteps: (b).
            conditioning: of the clips.

        Returns:
            (b c f h w).
        """
        if isinstance(self.unet, MotionUNet):
            return self.unet(sample, timesteps, conditioning)
        added = conditioning.added_cond_kwargs
        return self.unet(sample[:, :, 0], timesteps, conditioning.text, added_cond_kwargs=added).sample[:, :, None]


def check_fit(recipe: ModelRecipe, latent_shape: tuple[int, int, int, int]) -> None:
    """Find out before any worker starts whether model, base and data go together. No base weight is read.

    Args:
        recipe: the base and the model.
        latent_shape: (f c h w) of the dataset's clips.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    base = BaseFacts(recipe.base)
    num_frames, channels = latent_shape[:2]
    if channels != base.unet_channels:
        raise UserError(
            f"the dataset's latents have {channels} channels, the UNet of base {recipe.base} takes "
            f"{base.unet_channels}: was the dataset encoded with another base's VAE?"
        )
    if recipe.result == "domain_adapter":
        return
    motion = _fitting_config(base, recipe.model)
    if motion.use_positions and num_frames > motion.max_frames:
        raise UserError(
            f"the dataset's clips have {num_frames} frames, the motion module's position table has "
            f"{motion.max_frames}: raise model.max_frames or ingest shorter clips"
        )


def count_parameters(recipe: ModelRecipe) -> tuple[int, int]:
    """Numbers of a model's parameters: the UNet's and motion modules' that stay frozen, and those that are trained.

    No weight is read or made.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    base, model = BaseFacts(recipe.base), recipe.model
    rank = model.lora_rank or _PUBLISHED_RANK.get(recipe.result, 0)
    unet = _unet_on_meta(base)
    with torch.device("meta"):
        if recipe.result == "domain_adapter":
            return _size(unet), _size(LowRankAdapters.for_base(unet, rank))
    motion_config = _fitting_config(base, model)
    with torch.device("meta"):
        if model.text_conditioned:
            motion_config = motion_config.model_copy(update={"text_width": base.text_width})
        motion = MotionModules.for_base(unet, motion_config)
        if recipe.result == "motion_lora":
            return _size(unet) + _size(motion), _size(LowRankAdapters.for_motion(motion, rank))
    return _size(unet), _size(motion)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(recipe: ModelRecipe, text_encoders: TextEncoders, *, seed: int, rank: int = 0) -> TrainedModel:
    """Return the model on the CPU in float32: the base frozen, the rest to be trained.

    Args:
        recipe: the base and the model.
        text_encoders: the base's; what the recipe adds to the base is added to them too.
        seed: of fresh weights.
        rank: this worker, which says whose turn it is of `base_checkpoints`.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    unet, model = load_unet(recipe.base), recipe.model
    adapter = model.domain_adapter
    encoders = {part: encoder for part, (_, encoder) in text_encoders.items()}
    predicts_v = recipe.noise_schedule.prediction_type == "v_prediction"
    ResidentWeights({"unet": unet, **encoders}, predicts_v=predicts_v).load(
        _checkpoint(recipe.base_checkpoints, rank),
        [Addition(adapter.path, adapter.scale, "domain_adapter")] if adapter.path is not None else [],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora_rank = model.lora_rank or _PUBLISHED_RANK.get(recipe.result, 0)
        if recipe.result == "domain_adapter":
            return TrainedModel(unet, LowRankAdapters.for_base(unet, lora_rank)).train()
        motion_unet = MotionUNet(unet, _motion_for(unet, model, recipe.base))
        if recipe.result == "motion_lora":
            return TrainedModel(motion_unet, LowRankAdapters.for_motion(motion_unet.motion, lora_rank)).train()
        return TrainedModel(motion_unet, motion_unet.motion).train()


def place(model: TrainedModel, device: torch.device, precision: str) -> torch.dtype:
    """Move the model to its device: what is frozen in the precision of its matrix products, the rest in float32.

    Args:
        model: the model.
        device: where it computes.
        precision: `ComputeConfig.precision`.

    Returns:
        That precision, to be used under autocast.
    """
    dtype = _auto_dtype(device) if precision == "auto" else getattr(torch, precision)
    model.to(device)
    trainable = {id(module) for module in model.trainable.modules()}
    for module in model.unet.modules():
        if id(module) not in trainable:
            _cast_own(module, dtype)
    return dtype


def _cast_own(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's own tensors, not its children's: casting there and back would round what is trained."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _auto_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _checkpoint(checkpoints: tuple[str, ...], rank: int) -> str | None:
    chosen = checkpoints[rank % len(checkpoints)] if checkpoints else BASE
    return None if chosen == BASE else chosen


def _fitting_config(base: BaseFacts, model: ModelConfig) -> MotionConfig:
    """Return the config of motion modules that fit the base; no weight is read or made."""
    if model.motion_module is not None:
        with naming("model.motion_module"):
            file = motion_modules.open_file(model.motion_module)
            motion_modules.check_fits(file, base.unet, base.base)
        return file.config
    unet = _unet_on_meta(base)
    with torch.device("meta"):
        return _fresh(unet, model.motion_config(base.unet), base.base).config


def _unet_on_meta(base: BaseFacts) -> UNet2DConditionModel:
    return build_on_meta(UNet2DConditionModel, base.unet, config_name(base.base, "unet"))


def _motion_for(unet: UNet2DConditionModel, model: ModelConfig, base: str) -> MotionModules:
    """Motion modules that fit the base, fresh (drawn from torch's generator) or from the file."""
    if model.motion_module is None:
        return _fresh(unet, model.motion_config(dict(unet.config)), base)
    file = motion_modules.open_file(model.motion_module)
    motion_modules.check_fits(file, dict(unet.config), base)
    motion = file.build()
    if not model.text_conditioned or file.config.text_width is not None:
        return motion
    width = unet.config.cross_attention_dim
    with_text = MotionModules.for_base(unet, file.config.model_copy(update={"text_width": width}))
    with_text.load_state_dict(motion.state_dict(), strict=False)
    return with_text


def _fresh(unet: UNet2DConditionModel, config: MotionConfig, base: str) -> MotionModules:
    try:
        return MotionModules.for_base(unet, config)
    except ValueError as error:
        raise UserError(f"base {base} cannot carry the motion modules: {error}") from error
