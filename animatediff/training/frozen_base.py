"""The frozen base below what is trained: its weights, this worker's personalised checkpoint, and the domain adapter."""

from diffusers import UNet2DConditionModel

from animatediff.models.prompt_encoders import TextEncoderParts
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.weights.base import load_unet
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import BaseFacts, config_name
from animatediff.weights.prediction import check_agrees, of_checkpoint
from animatediff.weights.resident import ResidentWeights, ScaledLora


def load_frozen_base(
    config: RecipeConfig, text_encoders: TextEncoderParts, *, prediction_type: str, rank: int
) -> UNet2DConditionModel:
    """Return the base's UNet on the CPU in float32, with the weights that are added to it.

    Args:
        config: names the base, its checkpoints and the domain adapter.
        text_encoders: the base's; a checkpoint changes their weights too.
        prediction_type: of the training's noise schedule, with which a checkpoint must agree.
        rank: this worker, which says whose turn it is of `base_checkpoints`.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    unet, adapter = load_unet(config.base), config.model.domain_adapter
    encoders = {part: encoder for part, (_, encoder) in text_encoders.items()}
    checkpoint = _checkpoint(config.base_checkpoints, rank)
    if checkpoint is not None:
        check_agrees(checkpoint, of_checkpoint(checkpoint), prediction_type)
    ResidentWeights({"unet": unet, **encoders}).load(
        checkpoint,
        [ScaledLora(adapter.path, adapter.scale, "domain_adapter")] if adapter.path is not None else [],
    )
    return unet


def _checkpoint(checkpoints: tuple[str, ...], rank: int) -> str | None:
    chosen = checkpoints[rank % len(checkpoints)] if checkpoints else BASE_AS_IS
    return None if chosen == BASE_AS_IS else chosen


def unet_on_meta(base: str) -> UNet2DConditionModel:
    """Return the base's UNet on the meta device: no weight is read or made.

    Raises:
        UserError: the base has no UNet, or its config cannot be read.
    """
    return build_on_meta(UNet2DConditionModel, BaseFacts(base).unet, config_name(base, "unet"))
