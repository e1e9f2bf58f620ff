"""The programs that some checks call: those of pyproject's `dev` extra, and promtool where it is installed."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.checks.fault import SkippedError

_TIMEOUT_S = 120
_INSTALL = {"promtool": "apt install prometheus"}


def tool(name: str) -> str:
    """Return the path of a program: that of this Python's environment, else of PATH.

    Raises:
        SkippedError: it is nowhere.
    """
    beside = Path(sys.executable).with_name(name)
    if found := str(beside) if beside.exists() else shutil.which(name):
        return found
    raise SkippedError(f"{name} is not installed ({_INSTALL.get(name, 'pip install -e .[dev]')})")


def run(
    command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its exit code and what it said."""
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
