"""What becomes of a checkpoint on the way: clips, the loss on held-out clips, and the best weights so far.

Ray Train runs it as a task of its own, one checkpoint at a time, while the workers train on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from ray.train import Checkpoint

from animatediff import storage
from animatediff.training.validation import validation_loss
from pipelines.runtime import find_user_error
from pipelines.stages.sample import Renderer, write_files

FOLDER = "validation"
_BEST = "best.json"


def validate(checkpoint: Checkpoint, *, step: int, renderer: Renderer, run_uri: str, board: Any) -> dict[str, float]:
    """Validate a checkpoint; what fails costs a warning, not the run.

    Args:
        checkpoint: of the run.
        step: steps that it had done.
        renderer: renders the run's samples.
        run_uri: the run's folder.
        board: handle of a `MetricsBoard`: it gets `validated` (the step), `files` (URIs), and `val_loss` where clips
            are held out; or `validated` and `error`.

    Returns:
        `val_loss` where clips are held out.
    """
    try:
        with checkpoint.as_directory() as folder:
            weights = Path(folder) / renderer.recipe.result_file
            files = write_files(storage.join(run_uri, f"{FOLDER}/step-{step:08d}"), renderer.render(str(weights)))
            metrics = _metrics(renderer, weights, step, run_uri)
    except Exception as error:
        reason = find_user_error(error) or f"{type(error).__name__}: {error}"
        board.post.remote({"validated": step, "error": str(reason)})
        return {}
    board.post.remote({"validated": step, "files": files, **metrics})
    return metrics


def _metrics(renderer: Renderer, weights: Path, step: int, run_uri: str) -> dict[str, float]:
    recipe = renderer.recipe
    if not recipe.train.holdout:
        return {}
    device = torch.device("cuda" if renderer.on_gpu else "cpu")
    loss = validation_loss(recipe, str(weights), device=device, num_clips=renderer.sample.num_loss_clips)
    _keep_best(run_uri, f"best_{recipe.result_file}", weights, step, loss)
    return {"val_loss": loss}


def _keep_best(run_uri: str, name: str, weights: Path, step: int, loss: float) -> None:
    """Keep the weights in the run's folder if no earlier ones had a lower loss."""
    record_uri = storage.join(run_uri, _BEST)
    if storage.exists(record_uri) and json.loads(storage.read_bytes(record_uri))["val_loss"] <= loss:
        return
    storage.write_bytes(storage.join(run_uri, name), weights.read_bytes())
    storage.write_bytes(record_uri, json.dumps({"step": step, "val_loss": loss}, indent=2).encode() + b"\n")
