"""The motion modules that training starts from: fresh ones in the shape that the config asks for, or a file's."""

import torch
from diffusers import UNet2DConditionModel

from animatediff.errors import UserError, errors_with_field
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.training.settings import ModelConfig
from animatediff.weights import motion_modules


def load_motion(unet: UNet2DConditionModel, model: ModelConfig, base: str) -> MotionModules:
    """Return motion modules that fit a base: the file's, or fresh ones drawn from torch's global generator.

    Args:
        unet: the base's.
        model: the config.
        base: the base's name in errors.

    Raises:
        UserError: the file cannot be read, or they do not fit the base.
    """
    if model.motion_module is None:
        return _fresh(unet, model.motion_config(dict(unet.config)), base)
    file = motion_modules.open_file(model.motion_module)
    motion_modules.check_fits(file, dict(unet.config), base)
    motion, config = file.build(), _with_text(file.config, unet, model)
    if config == file.config:
        return motion
    with_text = MotionModules.for_base(unet, config)
    with_text.load_state_dict(motion.state_dict(), strict=False)
    return with_text


def motion_on_meta(unet: UNet2DConditionModel, model: ModelConfig, base: str) -> MotionModules:
    """Return motion modules as `load_motion` does, on the meta device, where nothing has weights."""
    config = _with_text(fitting_config(unet, model, base), unet, model)
    with torch.device("meta"):
        return MotionModules.for_base(unet, config)


def fitting_config(unet: UNet2DConditionModel, model: ModelConfig, base: str) -> MotionConfig:
    """Return the config of the file's or of fresh motion modules that fit a base; no weight is read or made.

    Args:
        unet: the base's, which may be on the meta device.
        model: the config.
        base: the base's name in errors.

    Raises:
        UserError: the file cannot be read, or they do not fit the base.
    """
    if model.motion_module is not None:
        with errors_with_field("model.motion_module"):
            file = motion_modules.open_file(model.motion_module)
            motion_modules.expect_no_picture(file)
            motion_modules.check_fits(file, dict(unet.config), base)
        return file.config
    with torch.device("meta"):
        return _fresh(unet, model.motion_config(dict(unet.config)), base).config


def _with_text(config: MotionConfig, unet: UNet2DConditionModel, model: ModelConfig) -> MotionConfig:
    if not model.text_conditioned or config.text_width is not None:
        return config
    return config.model_copy(update={"text_width": unet.config.cross_attention_dim})


def _fresh(unet: UNet2DConditionModel, config: MotionConfig, base: str) -> MotionModules:
    try:
        return MotionModules.for_base(unet, config)
    except ValueError as error:
        raise UserError(f"base {base} cannot carry the motion modules: {error}") from error
