"""The frozen base below what is trained: its weights, this worker's personalised checkpoint, and the domain adapter."""

from diffusers import UNet2DConditionModel

from animatediff.errors import UserError
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.training.text import TextEncoders
from animatediff.weights.base import load_unet
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import BaseFacts, config_name
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.identify.messages import model_name
from animatediff.weights.resident import ResidentWeights, ScaledLora


def load_frozen_base(
    config: RecipeConfig, text_encoders: TextEncoders, *, predicts_v: bool, rank: int
) -> UNet2DConditionModel:
    """Return the base's UNet on the CPU in float32, with the weights that are added to it.

    Args:
        config: names the base, its checkpoints and the domain adapter.
        text_encoders: the base's; a checkpoint changes their weights too.
        predicts_v: whether the training's noise schedule predicts the velocity, as a checkpoint must then.
        rank: this worker, which says whose turn it is of `base_checkpoints`.

    Raises:
        UserError: a part is missing or they do not fit.
    """
    unet, adapter = load_unet(config.base), config.model.domain_adapter
    encoders = {part: encoder for part, (_, encoder) in text_encoders.items()}
    ResidentWeights({"unet": unet, **encoders}, predicts_v=predicts_v).load(
        _checkpoint(config.base_checkpoints, rank),
        [ScaledLora(adapter.path, adapter.scale, "domain_adapter")] if adapter.path is not None else [],
    )
    return unet


def _checkpoint(checkpoints: tuple[str, ...], rank: int) -> str | None:
    chosen = checkpoints[rank % len(checkpoints)] if checkpoints else BASE_AS_IS
    return None if chosen == BASE_AS_IS else chosen


def check_base(base: str, prediction_type: str) -> None:
    """Refuse a base that no job renders with, though motion modules may fit its layers.

    Args:
        base: its name.
        prediction_type: of the noise schedule that is trained with.

    Raises:
        UserError: it is Stable Diffusion 2 or SDXL's refiner, or predicts something else.
    """
    facts = BaseFacts(base)
    kind = BASE_OF_TEXT_WIDTH.get(facts.text_width or 0)
    if kind in ("sd2", "sdxl-refiner"):
        raise UserError(f"base {base} is {model_name(kind)}: take a Stable Diffusion 1.x or SDXL base")
    if facts.prediction_type not in ("epsilon", prediction_type):
        raise UserError(
            f"base {base} predicts {facts.prediction_type}, and would be trained on as one that predicts "
            f"{prediction_type}: leave out schedule.prediction_type, or take a motion module that was made for the like"
        )


def unet_on_meta(base: str) -> UNet2DConditionModel:
    """Return the base's UNet on the meta device: no weight is read or made.

    Raises:
        UserError: the base has no UNet, or its config cannot be read.
    """
    return build_on_meta(UNet2DConditionModel, BaseFacts(base).unet, config_name(base, "unet"))
