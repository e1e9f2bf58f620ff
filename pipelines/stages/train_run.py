"""The folder of a training run: what it was started with, and how far it is."""

from typing import NamedTuple

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config, differing_fields, dump, read_yaml
from animatediff.data.loader import latent_shapes
from animatediff.data.manifest import Manifest, read_manifest
from animatediff.errors import UserError
from animatediff.training.model import check_fit
from animatediff.training.recipe import Recipe
from animatediff.training.state import MOTION_MODULE
from pipelines.settings import TrainConfig

_CONFIG, _STATE = "config.yaml", "run.json"
# These may differ between a run and its continuation: they change no step that is done already.
_MAY_CHANGE = (
    "output_uri:",
    "num_checkpoints:",
    "train.num_steps:",
    "train.log_every:",
    "train.checkpoint_every:",
    "scaling.",
    "sample.",
)


class TrainRun(Config):
    """State of a run, kept as `run.json`."""

    dataset_digest: str
    """Version of the dataset that it trains on."""
    mlflow_run_id: str | None = None
    """The MLflow run that later jobs continue."""
    num_steps: int = 0
    """Steps of the motion module that is written; 0 while there is none."""
    first_loss: float | None = None
    """Mean loss of the first logged steps."""
    loss: float | None = None
    """Moving average of the loss at the end."""

    def write(self, output_uri: str) -> None:
        """Keep it in the run's folder."""
        storage.write_bytes(storage.join(output_uri, _STATE), self.model_dump_json(indent=2).encode() + b"\n")


class TrainJob(NamedTuple):
    """A run that is ready to be started or continued."""

    recipe: Recipe
    """The config's, its local paths absolute."""
    manifest: Manifest
    run: TrainRun
    motion_module: str
    """URI of the result."""


def prepare(config: TrainConfig) -> TrainJob:
    """Check everything that can be checked without a worker, then start a run in its folder or take it up.

    Raises:
        UserError: the dataset or the base cannot be read, they do not fit, or the folder holds a run with another
            config or on another version of the dataset.
    """
    recipe = _absolute(config)
    manifest = read_manifest(recipe.dataset_uri)
    for shape in latent_shapes(recipe.dataset_uri, manifest):
        check_fit(recipe.model, recipe.base, shape)
    run = _open_run(config, manifest.digest())
    return TrainJob(recipe, manifest, run, storage.join(storage.absolute(config.output_uri), MOTION_MODULE))


def _open_run(config: TrainConfig, dataset_digest: str) -> TrainRun:
    run = _read(config.output_uri)
    if run is None:
        run = TrainRun(dataset_digest=dataset_digest)
    else:
        _check_same(config, run, dataset_digest)
    storage.write_bytes(storage.join(config.output_uri, _CONFIG), dump(config).encode())
    run.write(config.output_uri)
    return run


def _absolute(config: TrainConfig) -> Recipe:
    """The config's recipe, its local paths absolute: workers have another working directory."""
    recipe = {name: getattr(config, name) for name in Recipe.model_fields}
    recipe["dataset_uri"] = storage.absolute(config.dataset_uri)
    recipe["base"] = storage.absolute_if_there(config.base)
    if config.model.motion_module is not None:
        uri = storage.absolute(config.model.motion_module)
        recipe["model"] = config.model.model_copy(update={"motion_module": uri})
    return Recipe(**recipe)


def _read(output_uri: str) -> TrainRun | None:
    uri = storage.join(output_uri, _STATE)
    try:
        return TrainRun.model_validate_json(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{uri} is not the state of a training run: {error.errors()[0]['msg']}") from error


def _check_same(config: TrainConfig, run: TrainRun, dataset_digest: str) -> None:
    old = read_yaml(storage.join(config.output_uri, _CONFIG))
    changes = differing_fields(old, config.model_dump(mode="json"))
    changes = [change for change in changes if not change.startswith(_MAY_CHANGE)]
    if run.dataset_digest != dataset_digest:
        changes.append(f"the content of {config.dataset_uri}")
    if changes:
        raise UserError(
            f"{config.output_uri} holds the run {old.get('run_name')!r}, which differs in {'; '.join(changes)}: "
            "change it back, or choose another output_uri"
        )
