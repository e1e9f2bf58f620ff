"""The SparseCtrl encoder that training starts from: fresh residuals, on what the base and the motion module know."""

import torch
from diffusers import UNet2DConditionModel

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights.base import load_unet
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import config_name
from animatediff.weights.controls.sparse_control_file import SparseControlFile


def fresh_sparse_control(motion_unet: MotionUNet, base: str) -> SparseControlNet:
    """Return an encoder that changes nothing yet.

    Its image layers are the base's, without what a domain adapter or a personalised checkpoint adds, so that workers
    with different checkpoints begin with the same weights. Its motion modules are the motion module's with the first
    of their attentions.

    Args:
        motion_unet: the frozen one that it is to be beside.
        base: the base's name.

    Raises:
        UserError: the base cannot be read, or carries no such encoder.
    """
    network = _made(load_unet(base), motion_unet, base)
    for block, known in zip(network.down_blocks, motion_unet.motion.down_blocks, strict=True):
        motion_modules = block.motion_modules.state_dict()
        found = known.motion_modules.state_dict()  # type: ignore[union-attr]
        block.motion_modules.load_state_dict({name: found[name] for name in motion_modules})
    return network


def sparse_control_on_meta(motion_unet: MotionUNet, file: SparseControlFile | None, base: str) -> SparseControlNet:
    """Return an encoder in the shape of a file's, or of a fresh one, on the meta device, where nothing has weights.

    Raises:
        UserError: the file does not fit the base, or the base carries no such encoder.
    """
    config = motion_unet.base.config
    if file is not None:
        return file.on_meta(config, base)
    with torch.device("meta"):
        return _made(build_on_meta(UNet2DConditionModel, config, config_name(base, "unet")), motion_unet, base)


def _made(unet: UNet2DConditionModel, motion_unet: MotionUNet, base: str) -> SparseControlNet:
    known = motion_unet.config
    # One attention over frames, and nothing of what the published encoders have not.
    motion = MotionConfig(
        num_layers=1,
        num_heads=known.num_heads,
        max_frames=known.max_frames,
        use_positions=known.use_positions,
        norm_num_groups=known.norm_num_groups,
    )
    try:
        return SparseControlNet(unet, "rgb", motion)
    except ValueError as error:
        raise UserError(f"base {base} cannot carry a SparseCtrl encoder: {error}") from error
