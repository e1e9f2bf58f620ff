"""Ray Train's index of a run's checkpoints, and what is done when it or one of them is damaged.

Ray goes on from the newest checkpoint of its index and looks at nothing but whether the folder is there. So a
checkpoint that was damaged since is taken from the index before Ray reads it, and training goes on from the newest
whole one. The folder itself stays where it is.
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
from pipelines.terminal.failures import find_storage_error, find_user_error

logger = logging.getLogger(__name__)


class CheckpointIndexChangedError(UserError):
    """The index was no longer whole as Ray read it: processes of a killed run can write for a moment more."""


CHECKPOINTS_FOLDER = "checkpoints"
"""In a run's folder: Ray Train's, with a folder for each checkpoint."""

# Ray Train's own file; the fields of its version 0 are written below.
_INDEX_FILE = "checkpoint_manager_snapshot.json"
_CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")
# Ray Train's, for an index that is no JSON and for one that names a checkpoint that is not there.
_INDEX_UNREADABLE = "CheckpointManagerInitializationError"


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def _step_of(checkpoint: str) -> int:
    match = _CHECKPOINT_NAME.fullmatch(checkpoint)
    assert match is not None
    return int(match[1])


def repair_checkpoint_index(run_uri: str, known_damaged: Collection[str] = ()) -> None:
    """Take from Ray's index the checkpoints of which files are missing or cut, and make it anew if it is damaged.

    Args:
        run_uri: the run's folder.
        known_damaged: names of checkpoints that are known to be damaged.

    Raises:
        UserError: there are checkpoints, but none is whole; or the storage cannot be reached.
    """
    folder = storage.join(run_uri, CHECKPOINTS_FOLDER)
    there = checkpoint_names(run_uri)
    index = _read_index(folder)
    if index is None and not there:
        # Ray writes its index with the first whole checkpoint: what a kill leaves before that is in no index.
        _write_index(folder, _make_index([]))
        return
    if index is None:
        logger.warning("Ray's list of the checkpoints in %s is missing or damaged: it is made anew", folder)
        index = _make_index(sorted(there))
    names = [entry["checkpoint_dir_name"] for entry in index["checkpoint_results"]]
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
    _write_index(folder, _without(index, damaged))


def checkpoint_names(run_uri: str) -> set[str]:
    """Return the names of the checkpoints' folders, whole or not."""
    return {
        name
        for name in storage.list_names(storage.join(run_uri, CHECKPOINTS_FOLDER))
        if _CHECKPOINT_NAME.fullmatch(name)
    }


@contextmanager
def storage_error_as_user_error(run_uri: str, before: Collection[str]) -> Iterator[None]:
    """Raise a `UserError` where the storage refused a checkpoint, and delete what was written of it.

    Args:
        run_uri: the run's folder.
        before: the checkpoints that were there before.

    Raises:
        CheckpointIndexChangedError: Ray could not read its index.
    """
    try:
        yield
    except Exception as error:
        if _INDEX_UNREADABLE in str(error):
            folder = storage.join(run_uri, CHECKPOINTS_FOLDER)
            raise CheckpointIndexChangedError(
                f"something else writes to {folder}, the run's checkpoints: stop it"
            ) from error
        storage_error = None if find_user_error(error) else find_storage_error(error)
        if storage_error is None:
            raise
        try:
            delete_half_written(run_uri, before)
        except UserError as failure:
            logger.warning("what was written of a checkpoint stays: %s", failure)
        raise unreachable(storage.join(run_uri, CHECKPOINTS_FOLDER), storage_error) from error


def delete_half_written(run_uri: str, before: Collection[str]) -> None:
    """Delete what a storage that refused has left of a checkpoint, and make Ray's index anew if it is cut.

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
    if _read_index(folder) is None:
        whole = (
            name
            for name in checkpoint_names(run_uri)
            if checkpoint_files.find_damage(storage.join(folder, name)) is None
        )
        _write_index(folder, _make_index(sorted(whole)))


def _find_damage(folder: str, name: str, known_damaged: Collection[str]) -> str | None:
    return "its bytes differ" if name in known_damaged else checkpoint_files.find_damage(storage.join(folder, name))


def _read_index(folder: str) -> dict[str, Any] | None:
    """Return Ray's index, or None where it is missing or damaged."""
    try:
        index = json.loads(storage.read_bytes(storage.join(folder, _INDEX_FILE)))
        results = index["checkpoint_results"]
        is_whole = len(results) == len(index["checkpoint_report_indices"]) and index.keys() >= _make_index([]).keys()
        return (
            index if is_whole and all(_CHECKPOINT_NAME.fullmatch(r["checkpoint_dir_name"]) for r in results) else None
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_index(folder: str, index: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(folder, _INDEX_FILE), json.dumps(index).encode())


def _make_index(names: list[str]) -> dict[str, Any]:
    """Return what Ray writes after these checkpoints, oldest first, and nothing to validate."""
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {"step": _step_of(name)}} for name in names]
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


def _without(index: dict[str, Any], damaged: Collection[str]) -> dict[str, Any]:
    results = zip(index["checkpoint_results"], index["checkpoint_report_indices"], strict=True)
    kept = [(result, report) for result, report in results if result["checkpoint_dir_name"] not in damaged]
    pending = zip(index["pending_training_results"], index["pending_validation_specs"], strict=True)
    waiting = [(result, spec) for result, spec in pending if result["checkpoint_dir_name"] not in damaged]
    names = {key: [n for n in index[key] if n not in damaged] for key in index if key.endswith("_dir_names")}
    return (
        index
        | names
        | {
            "checkpoint_results": [result for result, _ in kept],
            "checkpoint_report_indices": [report for _, report in kept],
            "latest_checkpoint_result": kept[-1][0] if kept else None,
            "pending_training_results": [result for result, _ in waiting],
            "pending_validation_specs": [spec for _, spec in waiting],
        }
    )


class ReportCheckpoints(UserCallback):
    """Puts an entry for each checkpoint that is whole on its storage; it runs in Ray Train's controller.

    Args:
        worker_mailbox: handle of a `WorkerMailbox`.
    """

    def __init__(self, worker_mailbox: Any) -> None:
        self._worker_mailbox = worker_mailbox

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Tell of the checkpoint that has just been uploaded, if there is one."""
        if checkpoint is not None:
            self._worker_mailbox.put.remote({"checkpoint": metrics[0]["step"]})
