"""MLflow, and the promise that its troubles never become the run's: one warning, bounded waits, training goes on.

Only the driver talks to it. So the default, an SQLite file, is opened by one process on one machine however many
workers train, and a slow server delays no step.
"""

import hashlib
import itertools
import logging
import os
import posixpath
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from animatediff import storage
from animatediff.uris import hide_secrets, printable_text, with_secrets
from pipelines.cluster.submitted import runs_folder
from pipelines.tracking.run_context import DataInput, context_tags, experiment_id, shown

logger = logging.getLogger(__name__)

_RETRY_AFTER_S, _MOST_RETRY_AFTER_S = 60.0, 900.0
_MOST_METRICS, _MOST_FILES = 100_000, 64
_BATCH = 1000  # MLflow's limit of metrics in a request
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_TIMEOUT_S = "10"
# A server that hands a file on to a bucket answers when it is there: gigabytes at 10 MB/s.
_FILE_TIMEOUT_S = "300"
_ENVIRONMENT = {
    # MLflow's own defaults wait for minutes: 120 s a request, 7 retries.
    _TIMEOUT: _TIMEOUT_S,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
T = TypeVar("T")


class Tracker:
    """One MLflow run, opened or continued. No method raises. A context manager: leaving it closes the run.

    While the server is away, what is logged waits for it, so that the run has all of it in the end: the newest
    100,000 metrics and 64 files. The server is asked again every minute, and the rarer the longer it is away.

    Args:
        run_name: name of a new run.
        run_id: an earlier job's run to continue, if any.
        params: flat parameters of a new run; passwords and signatures in addresses are left out.
        tags: of the run, beside those of `context_tags`; they replace earlier ones.
        inputs: the datasets that it reads.
    """

    def __init__(
        self,
        run_name: str,
        *,
        run_id: str | None,
        params: dict[str, Any],
        tags: dict[str, str],
        inputs: Sequence[DataInput] = (),
    ) -> None:
        self._has_warned = False
        self.answers = True
        """Whether MLflow did what it was last asked for."""
        self._retry_at, self._wait_s = 0.0, _RETRY_AFTER_S
        self._metrics: deque[tuple[str, float, int, int]] = deque(maxlen=_MOST_METRICS)
        self._files: deque[tuple[str, bytes]] = deque(maxlen=_MOST_FILES)
        self._last_steps: dict[str, int] = {}
        self._begin = partial(self._open, run_name, params, tags, inputs)
        self._client: Any = None
        self._known_id = run_id
        self.run_id: str | None = None
        """The run's id; None as long as tracking could not be started."""
        self._is_open()

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Log metrics of a step; what is logged of it or a later one already, maybe by an earlier job, is left out."""
        new = {name: value for name, value in metrics.items() if step > self._last_steps.get(name, 0)}
        self._last_steps |= dict.fromkeys(new, step)
        now_ms = int(time.time() * 1000)
        self._metrics += [(name, value, now_ms, step) for name, value in new.items()]
        self._send()

    def log_file(self, name: str, content: bytes) -> None:
        """Log a file as an artifact of the run; `name` may begin with folders (`validation/step-00000500/0.mp4`)."""
        self._files.append((name, content))
        self._send()

    def register(self, name: str, file_uri: str, *, tags: dict[str, str]) -> str | None:
        """Upload a weights file and register it as a new version of a model, which is created where there is none.

        The version has the file's `sha256` among its tags, and a run registers the same bytes once.

        Returns:
            The version, new or known; None where there is none.
        """
        self._retry_at = 0.0  # there is no second time
        if not self._is_open():
            return None
        return self._attempt(lambda: self._register(name, file_uri, tags), f"registers no model {name!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is pending and close the run as finished, failed or killed."""
        self._retry_at = 0.0
        self._send()
        if self.run_id:
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._attempt(lambda: self._client.set_terminated(self.run_id, status))

    def _is_open(self) -> bool:
        """Whether there is a run to log to, which is begun now if it could not be before."""
        if self.run_id is None and time.monotonic() >= self._retry_at:
            self.run_id = self._attempt(self._begin)
            if self.run_id is not None and self._has_warned:
                logger.info("MLflow at %s answers now", tracking_uri())
        return self.run_id is not None

    def _open(self, run_name: str, params: dict[str, Any], tags: dict[str, str], inputs: Sequence[DataInput]) -> str:
        from mlflow.entities import Param, RunTag

        self._client = client = self._client or open_client()
        run_id = self._known_id
        if run_id is None:
            # A server has an artifact store of its own; the local file gets a folder beside it.
            artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (runs_folder() / "mlartifacts").as_uri()
            run_id = str(client.create_run(experiment_id(client, artifacts), run_name=run_name).info.run_id)
            self._known_id = run_id  # a second try, should the rest fail, continues it
        else:
            client.update_run(run_id, status="RUNNING")
        run = client.get_run(run_id)
        # Parameters cannot be changed once logged: the newest config is the artifact config.yaml.
        new_params = [] if run.data.params else [Param(name, shown(value)) for name, value in params.items()]
        all_tags = [RunTag(name, shown(value)) for name, value in (context_tags() | tags).items()]
        client.log_batch(run_id, params=new_params, tags=all_tags)
        if inputs:
            self._attempt(lambda: client.log_inputs(run_id, [data.entity() for data in inputs]), "takes no datasets")
        self._leave_out_known({name: self._last_step(run_id, name) for name in run.data.metrics})
        return run_id

    def _last_step(self, run_id: str, name: str) -> int:
        return max(metric.step for metric in self._client.get_metric_history(run_id, name))

    def _leave_out_known(self, last_steps: dict[str, int]) -> None:
        """Of what has been waiting, too."""
        new = [metric for metric in self._metrics if metric[-1] > last_steps.get(metric[0], 0)]
        self._metrics = deque(new, maxlen=_MOST_METRICS)
        self._last_steps = {
            name: max(steps.get(name, 0) for steps in (last_steps, self._last_steps))
            for name in last_steps | self._last_steps
        }

    def _send(self) -> None:
        """Send what waits, unless the server failed just now."""
        if time.monotonic() < self._retry_at or not self._is_open():
            return
        while len(self._metrics) and self._attempt(self._send_metrics):
            pass
        while self._files and not self._metrics and self._attempt(self._send_file):
            pass

    def _send_metrics(self) -> bool:
        from mlflow.entities import Metric

        batch = list(itertools.islice(self._metrics, _BATCH))
        self._client.log_batch(self.run_id, metrics=[Metric(*metric) for metric in batch])
        for _ in batch:
            self._metrics.popleft()
        return True

    def _send_file(self) -> bool:
        self._upload(*self._files[0])
        self._files.popleft()
        return True

    def _upload(self, name: str, content: bytes) -> None:
        below, name = posixpath.split(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client.log_artifact(self.run_id, str(path), below or None)

    def _register(self, name: str, file_uri: str, tags: dict[str, str]) -> str:
        _create_model(self._client, name)  # first, so that no upload is for nothing where there is no registry
        with _local_file(file_uri) as path:
            sha256 = _sha256(path)
            version = self._registered(name, sha256)
            if version is None:
                # A folder for each content: what an earlier version points at stays as it is.
                folder = f"models/{sha256[:16]}"
                with long_waits():
                    self._client.log_artifact(self.run_id, str(path), folder)
                # A server takes no source but one among the run's artifacts, in its own notation.
                source = f"{self._client.get_run(self.run_id).info.artifact_uri}/{folder}"
                created = self._client.create_model_version(
                    name, source, self.run_id, tags=tags | {"sha256": sha256}, await_creation_for=0
                )
                version = str(created.version)
        return version

    def _registered(self, name: str, sha256: str) -> str | None:
        versions = self._client.search_model_versions(f"run_id = '{self.run_id}'")
        return next((str(v.version) for v in versions if v.name == name and v.tags.get("sha256") == sha256), None)

    def _attempt(self, call: Callable[[], T], trouble: str = "cannot be used") -> T | None:
        try:
            result = call()
            self._wait_s, self.answers = _RETRY_AFTER_S, True
            return result
        except Exception as error:
            self._retry_at, self.answers = time.monotonic() + self._wait_s, False
            self._wait_s = min(2 * self._wait_s, _MOST_RETRY_AFTER_S)
            if not self._has_warned:
                where = tracking_uri()
                logger.warning("MLflow at %s %s, the run goes on without it: %s", where, trouble, reason(error))
            self._has_warned = True
            return None


def tracking_uri() -> str:
    """Where runs are tracked: `MLFLOW_TRACKING_URI`, or an SQLite file in `runs_folder`; text without secrets."""
    return hide_secrets(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs_folder() / 'mlflow.db'}")


def reason(error: Exception) -> str:
    """Return what an error says, as the end of one line."""
    return " ".join(printable_text(str(error)).split())[:300] or type(error).__name__


@contextmanager
def long_waits() -> Iterator[None]:
    """Longer waits for answers while files of gigabytes are sent or fetched; a user's own setting stands."""
    is_ours = os.environ.get(_TIMEOUT) == _TIMEOUT_S
    if is_ours:
        os.environ[_TIMEOUT] = _FILE_TIMEOUT_S
    try:
        yield
    finally:
        if is_ours:
            os.environ[_TIMEOUT] = _TIMEOUT_S


def open_client() -> Any:
    """MLflow's client for `tracking_uri`, quiet and with bounded waits."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        runs_folder().mkdir(parents=True, exist_ok=True)
    return MlflowClient(with_secrets(tracking_uri()))


def _create_model(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@contextmanager
def _local_file(uri: str) -> Iterator[Path]:
    """Give the file itself, or a copy of a remote one."""
    fs, path = storage.filesystem(uri)
    if storage.is_local(uri):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / posixpath.basename(path)
        fs.get_file(path, str(copy))
        yield copy


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
