"""A checkpoint on disk: the weights as a file that animates, and what resuming needs beside it.

No random state is kept: every draw follows from the seed, the step and the clip's place in the batch.
"""

import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from animatediff import storage
from animatediff.errors import one_line
from animatediff.storage.errors import unreachable
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.state import checkpoint_files
from animatediff.training.state.checkpoint_files import DamagedCheckpointError
from animatediff.training.state.ema import Ema
from animatediff.training.trained_model import TrainedModel

_TENSORS_FILE = "training_state.pt"
_RECORD_FILE = "state.json"


@dataclass(frozen=True)
class TrainingState:
    """All that changes while a run trains."""

    recipe: Recipe
    """Knows the weights file."""
    model: TrainedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Scaler of the loss; it does nothing where float16 is not used."""
    ema: Ema | None
    """The averages of the weights, if any."""

    def save(self, folder: Path, *, step: int, skipped_steps: int) -> None:
        """Write the state after `step` steps.

        Args:
            folder: exists.
            step: steps done.
            skipped_steps: how many of them were skipped.
        """
        self.write_weights(str(folder / self.recipe.weights_file))
        # The file holds the averages; the weights themselves are needed to go on.
        weights = {"weights": self.model.trainable.state_dict()} if self.ema is not None else {}
        tensors = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict(), **weights}
        # Opened by Python, which keeps what the system says.
        with _storage_errors_naming(folder), (folder / _TENSORS_FILE).open("wb") as file:
            torch.save(tensors, file)
        config = self.recipe.resolved_config.model_dump(mode="json")
        record = {"step": step, "skipped_steps": skipped_steps, "config": config}
        storage.write_bytes(str(folder / _RECORD_FILE), json.dumps(record, indent=2).encode())
        with _storage_errors_naming(folder):
            checkpoint_files.write_checksums(folder)

    def write_weights(self, uri: str) -> None:
        """Write what was trained as a weights file: the averages where there are any."""
        with self.ema.averages_swapped_in() if self.ema is not None else nullcontext():
            self.recipe.write(uri, self.model)

    def load(self, folder: Path) -> tuple[int, int]:
        """Continue from a saved state.

        Returns:
            The steps it had done, and how many of them were skipped.

        Raises:
            DamagedCheckpointError: a file is missing or has other bytes than were written.
            UserError: the weights file was made for another model.
        """
        checkpoint_files.verify_checksums(folder)
        tensors, record = _read(folder)
        self.recipe.load_weights(str(folder / self.recipe.weights_file), self.model)
        # Now the model has the averages, if any were kept: they become the EMA's, before the weights take their place.
        if self.ema is not None:
            self.ema.load([parameter.detach() for parameter in self.model.trainable.parameters()])
        if "weights" in tensors:
            self.model.trainable.load_state_dict(tensors["weights"])
        _load_optimizer(self.optimizer, tensors["optimizer"])
        # It is empty from a precision that needs no scaler; the run may have another one now.
        if tensors["scaler"]:
            self.scaler.load_state_dict(tensors["scaler"])
        return int(record["step"]), int(record.get("skipped_steps", 0))


@contextmanager
def _storage_errors_naming(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # PyTorch raises the second, whatever happened
        raise unreachable(str(folder), error) from error


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `save` wrote as tensors and as a record; what older versions wrote has no checksums."""
    try:
        # weights_only: a checkpoint from elsewhere must not run code.
        tensors = torch.load(folder / _TENSORS_FILE, map_location="cpu", weights_only=True)
        return tensors, json.loads((folder / _RECORD_FILE).read_text())
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise DamagedCheckpointError(f"{folder} cannot be read: {one_line(error)}") from error


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a saved state, but keep the settings that the optimizer was made with: the config may have changed them."""
    settings = [{name: v for name, v in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, group_settings in zip(optimizer.param_groups, settings, strict=True):
        group.update(group_settings)
