"""The list that Ray Train keeps of a run's checkpoints, and what is done when it or one of them is damaged.

Ray goes on from the newest checkpoint of its list and looks at nothing but whether the folder is there. So a checkpoint
that was damaged since is taken from the list before Ray reads it, and training goes on from the newest whole one.
The folder itself stays where it is.
"""

import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.train import Checkpoint, UserCallback

from animatediff import storage
from animatediff.errors import UserError
from animatediff.storage.errors import unreachable
from animatediff.training.state import checkpoint_files
from pipelines.terminal.failures import find_refusal, find_user_error

logger = logging.getLogger(__name__)


class CheckpointIndexChangedError(UserError):
    """The list was no longer whole as Ray read it: processes of a killed run can write for a moment more."""


CHECKPOINTS_FOLDER = "checkpoints"
"""In a run's folder: Ray Train's, with a folder for each checkpoint."""

# Ray Train's own file; the fields of its version 0 are written below.
_SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")
# Ray Train's, for a list that is no JSON and for one that names a checkpoint that is not there.
_INDEX_UNREADABLE = "CheckpointManagerInitializationError"


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def repair_checkpoint_index(run_uri: str, known_damaged: Collection[str] = ()) -> None:
    """Take from Ray's list the checkpoints of which files are missing or cut, and make the list anew if it is damaged.

    Args:
        run_uri: the run's folder.
        known_damaged: names of checkpoints that are known to be damaged.

    Raises:
        UserError: there are checkpoints, but none is whole; or the storage cannot be reached.
    """
    folder = storage.join(run_uri, CHECKPOINTS_FOLDER)
    there = checkpoint_names(run_uri)
    snapshot = _read_snapshot(folder)
    if snapshot is None and not there:
        # Ray writes its list with the first checkpoint that is whole: what a kill before leaves is in no list, then.
        _write_snapshot(folder, _make_snapshot([]))
        return
    if snapshot is None:
        logger.warning("Ray's list of the checkpoints in %s is missing or damaged: it is made anew", folder)
        snapshot = _make_snapshot(sorted(there))
    names = [entry["checkpoint_dir_name"] for entry in snapshot["checkpoint_results"]]
    found = {name: _find_damage(folder, name, known_damaged) for name in names}
    damaged = {name: why for name, why in found.items() if why is not None}
    for name, why in damaged.items():
        logger.warning("checkpoint %s is damaged and left out: %s", storage.join(folder, name), why)
    whole = [name for name in names if name not in damaged]
    if names and not whole:
        raise UserError(
            f"no checkpoint of {run_uri} is whole: restore one, or delete {folder} to begin again with step 0"
        )
    if damaged:
        logger.warning("training goes on from checkpoint %s", whole[-1])
    _write_snapshot(folder, _without(snapshot, damaged))


def checkpoint_names(run_uri: str) -> set[str]:
    """Return the names of the checkpoints' folders, whole or not."""
    return {
        name
        for name in storage.list_names(storage.join(run_uri, CHECKPOINTS_FOLDER))
        if _CHECKPOINT_NAME.fullmatch(name)
    }


@contextmanager
def refusal_as_user_error(run_uri: str, before: Collection[str]) -> Iterator[None]:
    """Raise what ends the training as a `UserError` where the storage has refused a checkpoint, of which nothing stays.

    Args:
        run_uri: the run's folder.
        before: the checkpoints that were there before.

    Raises:
        CheckpointIndexChangedError: Ray could not read its list.
    """
    try:
        yield
    except Exception as error:
        if _INDEX_UNREADABLE in str(error):
            folder = storage.join(run_uri, CHECKPOINTS_FOLDER)
            raise CheckpointIndexChangedError(
                f"something else writes to {folder}, the run's checkpoints: stop it"
            ) from error
        refusal = None if find_user_error(error) else find_refusal(error)
        if refusal is None:
            raise
        try:
            delete_half_written(run_uri, before)
        except UserError as failure:
            logger.warning("what was written of a checkpoint stays: %s", failure)
        raise unreachable(storage.join(run_uri, CHECKPOINTS_FOLDER), refusal) from error


def delete_half_written(run_uri: str, before: Collection[str]) -> None:
    """Delete what a storage that refused has left of a checkpoint, and make Ray's list anew if it is cut.

    Args:
        run_uri: the run's folder.
        before: the checkpoints that were there before, which stay.

    Raises:
        UserError: the storage cannot be reached.
    """
    folder = storage.join(run_uri, CHECKPOINTS_FOLDER)
    for name in checkpoint_names(run_uri) - set(before):
        uri = storage.join(folder, name)
        if checkpoint_files.CHECKSUMS_FILE in storage.list_sizes(uri) and checkpoint_files.find_damage(uri) is None:
            continue
        if storage.is_local(uri):
            shutil.rmtree(storage.absolute(uri), ignore_errors=True)
        else:
            storage.delete_many([storage.join(uri, file) for file in storage.find_files(uri)])
    if _read_snapshot(folder) is None:
        whole = (
            name
            for name in checkpoint_names(run_uri)
            if checkpoint_files.find_damage(storage.join(folder, name)) is None
        )
        _write_snapshot(folder, _make_snapshot(sorted(whole)))


def _find_damage(folder: str, name: str, known_damaged: Collection[str]) -> str | None:
    return "its bytes differ" if name in known_damaged else checkpoint_files.find_damage(storage.join(folder, name))


def _read_snapshot(folder: str) -> dict[str, Any] | None:
    """Return Ray's list, or None where it is missing or damaged."""
    try:
        snapshot = json.loads(storage.read_bytes(storage.join(folder, _SNAPSHOT_FILE)))
        results = snapshot["checkpoint_results"]
        is_whole = (
            len(results) == len(snapshot["checkpoint_report_indices"]) and snapshot.keys() >= _make_snapshot([]).keys()
        )
        return (
            snapshot
            if is_whole and all(_CHECKPOINT_NAME.fullmatch(r["checkpoint_dir_name"]) for r in results)
            else None
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_snapshot(folder: str, snapshot: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(folder, _SNAPSHOT_FILE), json.dumps(snapshot).encode())


def _make_snapshot(names: list[str]) -> dict[str, Any]:
    """Return what Ray writes after these checkpoints, oldest first, and nothing to validate."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {"step": int(name[5:])}} for name in names]
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": list(range(len(names))),
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(names),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def _without(snapshot: dict[str, Any], damaged: Collection[str]) -> dict[str, Any]:
    results = zip(snapshot["checkpoint_results"], snapshot["checkpoint_report_indices"], strict=True)
    kept = [(result, index) for result, index in results if result["checkpoint_dir_name"] not in damaged]
    pending = zip(snapshot["pending_training_results"], snapshot["pending_validation_specs"], strict=True)
    waiting = [(result, spec) for result, spec in pending if result["checkpoint_dir_name"] not in damaged]
    names = {key: [n for n in snapshot[key] if n not in damaged] for key in snapshot if key.endswith("_dir_names")}
    return (
        snapshot
        | names
        | {
            "checkpoint_results": [result for result, _ in kept],
            "checkpoint_report_indices": [index for _, index in kept],
            "latest_checkpoint_result": kept[-1][0] if kept else None,
            "pending_training_results": [result for result, _ in waiting],
            "pending_validation_specs": [spec for _, spec in waiting],
        }
    )


class TellOfCheckpoints(UserCallback):
    """Leaves an entry for each checkpoint that is whole on its storage; it runs in Ray Train's controller.

    Args:
        metrics_queue: handle of a `MetricsQueue`.
    """

    def __init__(self, metrics_queue: Any) -> None:
        self._metrics_queue = metrics_queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Tell of the checkpoint that has just been uploaded, if there is one."""
        if checkpoint is not None:
            self._metrics_queue.put.remote({"checkpoint": metrics[0]["step"]})
