"""The actor that answers for a node."""

import hashlib
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import Empty, Queue

import animatediff
import pipelines
from animatediff.errors import UserError, one_line
from pipelines.stages.preflight.needs import Needs
from pipelines.stages.preflight.table import Row

CHECK_S = 60.0
"""What one check may take: a storage that is away is asked for longer by its client."""
_PACKAGES = ("ray", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Return what decides results on this machine: a digest of the project's code, and its libraries' versions."""
    digest = hashlib.sha256()
    for package in (animatediff, pipelines):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {"code": digest.hexdigest()[:12]} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


class Node:
    """Lives on one node, and takes no CPU and no GPU of it: other jobs go on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def clock(self) -> float:
        """Return the node's time, in seconds of the epoch."""
        return time.time()

    def versions(self) -> dict[str, str]:
        """Return `versions` as it is here."""
        return versions()

    def check(self, needs: Needs) -> list[Row]:
        """Run all checks side by side, each within `CHECK_S`."""
        from pipelines.stages.preflight.checks import CHECKS  # here, where a missing library is this node's fault

        running = [(check, _started(partial(check.run, needs))) for check in CHECKS]
        deadline = time.monotonic() + CHECK_S
        rows = []
        for check, answer in running:
            try:
                found = answer.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                found = UserError(f"no answer within {CHECK_S:.0f} s")
            if isinstance(found, BaseException):
                text = str(found) if isinstance(found, UserError) else one_line(found)
                rows.append(Row(check.name, self._name, text, check.remedy))
            elif found is not None:
                rows.append(Row(check.name, self._name, found))
        return rows


def _started(run: Callable[[], str | None]) -> "Queue[str | BaseException | None]":
    """Run in a thread that nobody has to wait for."""
    answer: Queue[str | BaseException | None] = Queue()

    def answered() -> None:
        try:
            answer.put(run())
        except BaseException as error:  # of a library that is broken on this node, of any class
            answer.put(error)

    threading.Thread(target=answered, daemon=True).start()
    return answer
