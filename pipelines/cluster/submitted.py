"""Jobs that `ray job submit` started: their working directory is a copy in Ray's temporary folder, and goes with it.

What they read may lie there, since `--working-dir` ships it. What they write must not.
"""

import os
import re
from pathlib import Path

from animatediff.config import Config
from animatediff.errors import UsageError
from animatediff.uris import is_relative, printable_uri

# Ray's job server sets it for the command that it runs, and for nothing else.
_SET_BY_RAY = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_SQLITE = re.compile(r"sqlite(\+\w+)?:///(?P<path>.+)")
_NO_PATHS = ("databricks", "databricks-uc", "uc")  # names that MLflow knows


def is_submitted() -> bool:
    """Whether this process is a job that `ray job submit` started."""
    return _SET_BY_RAY in os.environ


def runs_folder() -> Path:
    """Return the folder of results that no config names one for: `runs`, or in a submitted job `~/animatediff-runs`.

    Raises:
        UsageError: there is no home folder.
    """
    if not is_submitted():
        return Path("runs").resolve()
    try:
        return Path.home() / "animatediff-runs"
    except RuntimeError as error:
        raise UsageError("this user has no home folder to write to: name a --config, and set HOME") from error


def refuse_relative_outputs(config: Config) -> None:
    """Refuse a submitted job whose results would be lost with Ray's temporary folder.

    Raises:
        UsageError: `output_uri` or `MLFLOW_TRACKING_URI` depends on the working directory.
    """
    if not is_submitted():
        return
    output_uri = getattr(config, "output_uri", "/")
    if is_relative(output_uri):
        raise UsageError(
            f"output_uri: {output_uri!r} depends on the working directory, which for a submitted job is a copy in "
            "Ray's temporary folder: name an absolute path that all machines share, or a URI like s3://bucket/folder"
        )
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking and _is_relative_tracking(tracking):
        raise UsageError(
            f"MLFLOW_TRACKING_URI: {printable_uri(tracking)!r} depends on the working directory, which for a submitted "
            "job is a copy in Ray's temporary folder: name a server (http://host:5000), or sqlite:////absolute/path.db"
        )


def _is_relative_tracking(uri: str) -> bool:
    database = _SQLITE.fullmatch(uri)
    return uri not in _NO_PATHS and is_relative(database["path"] if database else uri)
