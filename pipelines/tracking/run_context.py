"""What MLflow is told of a run beside its numbers: experiment, code, versions, machine, and the data that goes in."""

import json
import platform
import posixpath
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any, NamedTuple

import animatediff
from animatediff.uris import printable_text, printable_uri

_EXPERIMENT = "animatediff"
# Without this tag the pages of MLflow 3 guess what an experiment is for, and open on evaluations of language models,
# among which no run of ours is.
_KIND = {"mlflow.experimentKind": "custom_model_development"}
_MOST_CHARS = 5000  # MLflow's limit of a tag; of a parameter it is 6,000

_PROJECT = "animatediff-ray"
_PACKAGES = {"animatediff": _PROJECT} | {name: name for name in ("torch", "diffusers", "transformers", "ray", "mlflow")}
_COMMIT = "mlflow.source.git.commit"
_MAX_DIGEST = 36  # characters, MLflow's limit


class DataInput(NamedTuple):
    """A dataset that a run reads."""

    uri: str
    digest: str
    """Of its content, as far as it is known before it is read."""
    profile: dict[str, int]
    """How much there is of what."""
    context: str = "training"
    """What it is read for."""

    def entity(self) -> Any:
        """As MLflow's client takes it; without passwords and signatures."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        uri = printable_uri(self.uri)
        scheme, separator, _ = uri.partition("://")
        dataset = Dataset(
            name=posixpath.basename(uri.rstrip("/")) or uri,
            digest=self.digest[:_MAX_DIGEST],
            source_type=scheme if separator else "local",
            source=json.dumps({"uri": uri}),
            profile=json.dumps(self.profile),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.context)])


def context_tags() -> dict[str, str]:
    """Who runs what: MLflow's own tags of user, script and git commit, and the versions of what decides results."""
    from mlflow.tracking.context.registry import resolve_tags

    tags = {name: printable_text(str(value)) for name, value in resolve_tags().items() if value}
    if _COMMIT not in tags and (commit := _commit()):
        tags[_COMMIT] = commit
    versions = {name: found for name, project in _PACKAGES.items() if (found := _version(project))}
    return tags | {
        f"versions.{name}": found for name, found in {"python": platform.python_version(), **versions}.items()
    }


def device(*, use_gpu: bool) -> str:
    """Return what the workers of the connected cluster compute on, such as `cuda (H200)`."""
    import ray  # a command line is read without it

    if not use_gpu:
        return f"cpu ({platform.machine()})"
    prefix = "accelerator_type:"
    kinds = sorted(name.removeprefix(prefix) for name in ray.cluster_resources() if name.startswith(prefix))
    return f"cuda ({', '.join(kinds)})" if kinds else "cuda"


def experiment_id(client: Any, artifact_location: str | None) -> str:
    """Return the experiment of all runs, which is made where there is none; a kind that a user gave it stays."""
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is None:
        return str(client.create_experiment(_EXPERIMENT, artifact_location=artifact_location, tags=_KIND))
    for name, value in _KIND.items():
        if name not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, name, value)
    return str(experiment.experiment_id)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def shown(value: object) -> str:
    """Return a value without passwords, and no longer than MLflow takes it.

    One that is too long would cost all others.
    """
    return printable_text(str(value))[:_MOST_CHARS]


def _commit() -> str | None:
    """Of the code itself, where the script that runs is in no repository: of its checkout, or of pip's."""
    from mlflow.utils.git_utils import get_git_commit

    try:
        origin = json.loads(distribution(_PROJECT).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    installed = origin.get("vcs_info", {}).get("commit_id")
    return installed or get_git_commit(str(Path(animatediff.__file__).parent))


def _version(project: str) -> str | None:
    try:
        return version(project)
    except PackageNotFoundError:  # run from a folder that was not installed
        return None
