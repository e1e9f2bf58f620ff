"""MLflow, and the promise that its troubles never become the run's: one warning, bounded waits, training goes on.

Only the driver talks to it. So the default, an SQLite file, is opened by one process on one machine however many
workers train, and a slow server delays no step.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

logger = logging.getLogger(__name__)

_EXPERIMENT = "animatediff"
_RETRY_AFTER_S = 60.0
_BATCH = 1000  # MLflow's limit of metrics in a request
_ENVIRONMENT = {
    # MLflow's own defaults wait for minutes: 120 s a request, 7 retries.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
T = TypeVar("T")


class Tracker:
    """One MLflow run, opened or continued. No method raises. A context manager: leaving it closes the run.

    Args:
        run_name: name of a new run.
        run_id: an earlier job's run to continue, if any.
        params: flat parameters of a new run.
        tags: of the run; they replace earlier ones.
    """

    def __init__(self, run_name: str, *, run_id: str | None, params: dict[str, Any], tags: dict[str, str]) -> None:
        self._has_warned = False
        self._retry_at = 0.0
        self._pending: list[Any] = []
        self._client: Any = self._attempt(_client)
        self.run_id: str | None = self._client and self._attempt(lambda: self._open(run_name, run_id, params, tags))
        """The run's id; None when tracking could not be started."""
        self._last_step = (self.run_id and self._attempt(self._read_last_step)) or 0

    def log_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Log metrics of a step; a step that an earlier job has logged already is left out."""
        if not self.run_id or step <= self._last_step:
            return
        from mlflow.entities import Metric

        self._last_step = step
        now_ms = int(time.time() * 1000)
        self._pending += [Metric(name, value, now_ms, step) for name, value in metrics.items()]
        if time.monotonic() >= self._retry_at:
            self._send()

    def log_file(self, name: str, content: bytes) -> None:
        """Log a file as an artifact of the run."""
        if self.run_id:
            self._attempt(lambda: self._upload(name, content))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is pending and close the run as finished, failed or killed."""
        if self.run_id:
            self._send()
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._attempt(lambda: self._client.set_terminated(self.run_id, status))

    def _open(self, run_name: str, run_id: str | None, params: dict[str, Any], tags: dict[str, str]) -> str:
        from mlflow.entities import Param, RunTag

        client = self._client
        is_new = run_id is None
        if run_id is None:
            run_id = client.create_run(_experiment_id(client), run_name=run_name).info.run_id
        else:
            client.update_run(run_id, status="RUNNING")
        # Parameters cannot be changed once logged: the newest config is the artifact config.yaml.
        new_params = [Param(name, str(value)) for name, value in params.items()] if is_new else []
        client.log_batch(run_id, params=new_params, tags=[RunTag(name, value) for name, value in tags.items()])
        return str(run_id)

    def _read_last_step(self) -> int:
        metrics = self._client.get_run(self.run_id).data.metrics
        histories = (self._client.get_metric_history(self.run_id, name) for name in list(metrics)[:1])
        return max((metric.step for history in histories for metric in history), default=0)

    def _send(self) -> None:
        while self._pending:
            if not self._attempt(self._send_batch):
                return

    def _send_batch(self) -> bool:
        batch = self._pending[:_BATCH]
        self._client.log_batch(self.run_id, metrics=batch)
        del self._pending[: len(batch)]
        return True

    def _upload(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client.log_artifact(self.run_id, str(path))

    def _attempt(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:
            self._retry_at = time.monotonic() + _RETRY_AFTER_S
            if not self._has_warned:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                logger.warning("MLflow at %s cannot be used, the run goes on without it: %s", tracking_uri(), reason)
            self._has_warned = True
            return None


def tracking_uri() -> str:
    """Where runs are tracked: `MLFLOW_TRACKING_URI`, or an SQLite file below the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_local_folder() / 'mlflow.db'}"


def _local_folder() -> Path:
    return Path("runs").resolve()


def _client() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        _local_folder().mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri())


def _experiment_id(client: Any) -> str:
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    # A server has an artifact store of its own; the local file gets a folder beside it.
    artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (_local_folder() / "mlartifacts").as_uri()
    return str(client.create_experiment(_EXPERIMENT, artifact_location=artifacts))


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
