"""A training state on disk: the weights as a file that animates, and what only going on needs beside it.

No random state is kept: every draw follows from the seed, the step and the clip's place in the batch.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from animatediff import storage
from animatediff.models.lora import LowRankAdapters
from animatediff.storage.errors import unreachable
from animatediff.training import checkpoint_files
from animatediff.training.checkpoint_files import DamagedCheckpointError
from animatediff.training.ema import Ema
from animatediff.training.model import TrainedModel
from animatediff.training.recipe import Recipe
from animatediff.weights import adapters, motion_modules

_TENSORS = "training_state.pt"
_STATE = "state.json"


def save(
    folder: Path,
    model: TrainedModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: Ema | None,
    *,
    step: int,
    skipped_steps: int,
    recipe: Recipe,
) -> None:
    """Write the state after `step` steps.

    Args:
        folder: exists.
        model: what is trained, in its place.
        optimizer: its.
        scaler: its.
        ema: its averages, if any.
        step: steps done.
        skipped_steps: how many of them were skipped.
        recipe: the run's, kept for the record.
    """
    write_result(str(folder / recipe.result_file), model, ema, recipe)
    # The file holds the averages; the weights themselves are needed to go on.
    weights = {"weights": model.trainable.state_dict()} if ema is not None else {}
    state = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), **weights}
    with _telling(folder), (folder / _TENSORS).open("wb") as file:  # by Python, which keeps what the system says
        torch.save(state, file)
    content = json.dumps(
        {"step": step, "skipped_steps": skipped_steps, "config": recipe.model_dump(mode="json")}, indent=2
    )
    storage.write_bytes(str(folder / _STATE), content.encode())
    with _telling(folder):
        checkpoint_files.seal(folder)


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch raises the second, whatever happened
        raise unreachable(str(folder), error) from error


def write_result(uri: str, model: TrainedModel, ema: Ema | None, recipe: Recipe) -> None:
    """Write what was trained as a weights file in its official layout: the averages where there are any.

    Motion modules say which noise schedule they were trained with.
    """
    with ema.in_place() if ema is not None else nullcontext():
        if isinstance(model.trainable, LowRankAdapters):
            adapters.write(uri, model.trainable, metadata={})
        else:
            motion_modules.write(uri, model.trainable, schedule=recipe.noise_schedule.model_dump())


def load(
    folder: Path,
    file_name: str,
    model: TrainedModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: Ema | None,
) -> tuple[int, int]:
    """Put a saved state into the model, its optimizer, scaler and averages.

    Returns:
        The steps it had done, and how many of them were skipped.

    Raises:
        DamagedCheckpointError: a file is missing or has other bytes than were written.
        UserError: the weights file was made for another model.
    """
    checkpoint_files.check(folder)
    state, record = _read(folder)
    load_result(str(folder / file_name), model)
    if ema is not None:
        ema.load([parameter.detach() for parameter in model.trainable.parameters()])
    if "weights" in state:
        model.trainable.load_state_dict(state["weights"])
    _load_moments(optimizer, state["optimizer"])
    # It is empty from a precision that needs no scaler; the run may have another one now.
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return int(record["step"]), int(record.get("skipped_steps", 0))


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the record; what older versions wrote has no checksums."""
    try:
        # weights_only: a checkpoint from elsewhere must not run code.
        state = torch.load(folder / _TENSORS, map_location="cpu", weights_only=True)
        return state, json.loads((folder / _STATE).read_text())
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DamagedCheckpointError(f"{folder} cannot be read: {str(error).splitlines()[0]}") from error


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, but keep the settings that the optimizer was made with: the config may have changed them."""
    settings = [{name: v for name, v in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def load_result(uri: str, model: TrainedModel) -> None:
    """Put a weights file into what is trained.

    Raises:
        UserError: it is damaged or was made for another model.
    """
    if isinstance(model.trainable, LowRankAdapters):
        adapters.read_into(uri, model.trainable, model.host)
    else:
        model.trainable.load_state_dict(motion_modules.read(uri).state_dict())
