"""What becomes of a checkpoint on the way: clips, the loss on held-out clips, and the best weights so far.

Ray Train runs it as a task of its own, one checkpoint at a time, while the workers train on.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.train import Checkpoint

from animatediff import storage
from animatediff.models.computing.threads import use_threads
from animatediff.training.validation import validation_loss
from pipelines.outputs.file_names import BEST_RECORD_FILE, best_weights_file
from pipelines.stages.train.checkpoints import checkpoint_name
from pipelines.stages.train.sample import Renderer, write_files
from pipelines.terminal.failures import find_user_error


def validation_folder(step: int) -> str:
    """Return where in a run's folder the clips lie that were rendered after `step` steps."""
    return f"validation/{checkpoint_name(step)}"


@dataclass(frozen=True)
class Validator:
    """Validates a run's checkpoints."""

    renderer: Renderer
    """Renders the run's samples."""
    run_uri: str
    """The run's folder."""
    worker_mailbox: Any
    """Handle of a `WorkerMailbox`: it gets `validated` (the step), `files` (URIs), `errors`, and where clips are held
    out `val_loss` and `left_out`, the ids of those whose own loss is not finite."""
    has_idle_cpus: bool
    """Whether the machine's CPUs have little else to do, as the training is on GPUs."""

    def __call__(self, checkpoint: Checkpoint, *, step: int) -> dict[str, float]:
        """Validate a checkpoint; what fails costs a warning, not the run, and not the rest of the validation.

        Args:
            checkpoint: of the run.
            step: steps that it had done.

        Returns:
            `val_loss` where clips are held out.
        """
        recipe = self.renderer.recipe
        if self.has_idle_cpus and not self.renderer.on_gpu:
            use_threads(max(1, (os.cpu_count() or 1) // 2))
        entry: dict[str, Any] = {"validated": step, "files": [], "errors": []}
        with _keep_errors(entry["errors"]), checkpoint.as_directory() as folder:
            weights = Path(folder) / recipe.weights_file
            # The loss first: a clip that cannot be rendered, or shown, says nothing about the weights.
            if recipe.config.train.holdout:
                with _keep_errors(entry["errors"]):
                    entry |= _measure_loss_and_keep_best(self.renderer, weights, step, self.run_uri)
            with _keep_errors(entry["errors"]):
                files = self.renderer.render(str(weights))
                entry["files"] = write_files(storage.join(self.run_uri, validation_folder(step)), files)
        ray.get(self.worker_mailbox.put.remote(entry))
        return {"val_loss": entry["val_loss"]} if "val_loss" in entry else {}


@contextmanager
def _keep_errors(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        errors.append(str(find_user_error(error) or f"{type(error).__name__}: {error}"))


def _measure_loss_and_keep_best(renderer: Renderer, weights: Path, step: int, run_uri: str) -> dict[str, Any]:
    recipe, sample = renderer.recipe, renderer.sample
    device = torch.device("cuda" if renderer.on_gpu else "cpu")
    found = validation_loss(recipe.resolved_config, str(weights), device=device, num_clips=sample.num_loss_clips)
    measure = {
        "dataset_uri": recipe.config.dataset_uri,
        "where": recipe.config.where,
        "holdout": recipe.config.train.holdout,
        "num_loss_clips": sample.num_loss_clips,
        "objective": recipe.config.objective.model_dump(mode="json"),
        "schedule": recipe.noise_schedule.model_dump(mode="json"),
    }
    if recipe.config.pictures is not None:
        measure["pictures"] = recipe.config.pictures.model_dump(mode="json")
    if recipe.config.distill is not None:
        measure["distill"] = recipe.config.distill.model_dump(mode="json")
    record = {"step": step, "val_loss": found.loss, "measure": measure}
    keep_best(run_uri, best_weights_file(recipe.weights_file), weights, record)
    return {"val_loss": found.loss, "left_out": found.left_out}


def keep_best(run_uri: str, name: str, weights: Path, record: dict[str, Any]) -> None:
    """Keep weights in the run's folder unless earlier ones had a loss as low, by the same measure.

    Args:
        run_uri: the run's folder.
        name: of the file that they become.
        weights: a file.
        record: their `step`, `val_loss` and `measure`: what the loss is of.
    """
    if not math.isfinite(record["val_loss"]):
        return
    record_uri = storage.join(run_uri, BEST_RECORD_FILE)
    if storage.exists(record_uri):
        best = json.loads(storage.read_bytes(record_uri))
        if best.get("measure") == record["measure"] and best["val_loss"] <= record["val_loss"]:
            return
    storage.write_bytes(storage.join(run_uri, name), weights.read_bytes())
    storage.write_bytes(record_uri, json.dumps(record, indent=2).encode() + b"\n")
