"""A training state on disk: the motion module as a file of its own, the optimizer, and where the run stands."""

import json
from pathlib import Path
from typing import Any

import torch

from animatediff import storage
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules

MOTION_MODULE = "motion_module.safetensors"
_OPTIMIZER = "optimizer.pt"
_STATE = "state.json"


def save(
    folder: Path, motion: MotionModules, optimizer: torch.optim.Optimizer, *, step: int, config: dict[str, Any]
) -> None:
    """Write the state after `step` steps.

    Args:
        folder: exists.
        motion: the motion modules.
        optimizer: theirs.
        step: steps done.
        config: the run's config, kept for the record.
    """
    motion_modules.write(str(folder / MOTION_MODULE), motion)
    torch.save(optimizer.state_dict(), folder / _OPTIMIZER)
    content = json.dumps({"step": step, "config": config}, indent=2)
    storage.write_bytes(str(folder / _STATE), content.encode())


def load(folder: Path, motion: MotionModules, optimizer: torch.optim.Optimizer) -> int:
    """Put a saved state into the motion modules and their optimizer.

    Returns:
        The steps it had done.

    Raises:
        UserError: the motion module's file is damaged or was made for another base.
    """
    motion.load_state_dict(motion_modules.read(str(folder / MOTION_MODULE)).state_dict())
    # weights_only: a checkpoint from elsewhere must not run code.
    optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, map_location="cpu", weights_only=True))
    return int(json.loads((folder / _STATE).read_text())["step"])
