"""The folder of a training run: what it was started with, and how far it is."""

import logging
from typing import NamedTuple

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config, differing_fields, dump, read_yaml
from animatediff.data.loader import latent_shapes
from animatediff.data.manifest import Manifest, read_manifest
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.rendering.catalog import schedule_of
from animatediff.training.captions import count_long
from animatediff.training.model import BASE, check_fit
from animatediff.training.recipe import Recipe
from animatediff.weights import motion_modules
from pipelines.model_uris import resolve_model_uri
from pipelines.settings import TrainConfig

logger = logging.getLogger(__name__)

STATE_FILE = "run.json"
"""In a run's folder: its `TrainRun`."""

_CONFIG = "config.yaml"
# These may differ between a run and its continuation: they change no step that is done already.
_MAY_CHANGE = (
    "output_uri:",
    "num_checkpoints:",
    "registered_model:",
    "allow_config_change:",
    "train.num_steps:",
    "train.log_every:",
    "train.checkpoint_every:",
    "train.max_skipped_steps:",
    "compute.",
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
    """Steps of the weights that are written; 0 while there are none."""
    first_loss: float | None = None
    """Mean loss of the first logged steps."""
    loss: float | None = None
    """Moving average of the loss at the end."""

    def write(self, output_uri: str) -> None:
        """Keep it in the run's folder."""
        storage.write_bytes(storage.join(output_uri, STATE_FILE), self.model_dump_json(indent=2).encode() + b"\n")


class TrainJob(NamedTuple):
    """A run that is ready to be started or continued."""

    recipe: Recipe
    """The config's, its local paths absolute."""
    manifest: Manifest
    run: TrainRun
    result: str
    """URI of the weights file that comes out."""


def prepare(config: TrainConfig) -> TrainJob:
    """Check everything that can be checked without a worker, then start a run in its folder or take it up.

    Raises:
        UserError: the dataset or the base cannot be read, they do not fit, or the folder holds a run with another
            config or on another version of the dataset.
    """
    recipe = _absolute(config)
    manifest = read_manifest(recipe.dataset_uri)
    for shape in latent_shapes(recipe.dataset_uri, manifest):
        check_fit(recipe, shape)
    digest = manifest.digest()
    if recipe.mix.dataset_uri is not None:
        digest += _check_mix(recipe, recipe.mix.dataset_uri, manifest)
    run = _open_run(config, digest)
    long = count_long(recipe.dataset_uri, manifest, recipe.base)
    logger.log(logging.WARNING if long.number else logging.INFO, "%s", long)
    return TrainJob(recipe, manifest, run, storage.join(storage.absolute(config.output_uri), recipe.result_file))


def _check_mix(recipe: Recipe, other_uri: str, manifest: Manifest) -> str:
    """The second dataset's digest."""
    other = read_manifest(other_uri)
    if other.encoder_fp != manifest.encoder_fp:
        raise UserError(
            f"{other_uri} and {recipe.dataset_uri} were encoded by different VAEs or in different "
            "precision: their latents do not mix, ingest one of them anew"
        )
    for shape in latent_shapes(other_uri, other):
        check_fit(recipe, shape)
    return f"+{other.digest()}"


def _open_run(config: TrainConfig, dataset_digest: str) -> TrainRun:
    run = _read(config.output_uri)
    if run is None:
        run = TrainRun(dataset_digest=dataset_digest)
    else:
        _check_same(config, run, dataset_digest)
        run = run.model_copy(update={"dataset_digest": dataset_digest})
    storage.write_bytes(storage.join(config.output_uri, _CONFIG), dump(config).encode())
    run.write(config.output_uri)
    return run


def _absolute(config: TrainConfig) -> Recipe:
    """The config's recipe, its local paths absolute: workers have another working directory."""
    recipe = {name: getattr(config, name) for name in Recipe.model_fields}
    recipe["dataset_uri"] = storage.absolute(config.dataset_uri)
    recipe["base"] = storage.absolute_if_there(config.base)
    recipe["base_checkpoints"] = tuple(
        name if name == BASE else storage.absolute(name) for name in config.base_checkpoints
    )
    if config.mix.dataset_uri is not None:
        uri = storage.absolute(config.mix.dataset_uri)
        recipe["mix"] = config.mix.model_copy(update={"dataset_uri": uri})
    model = config.model
    if model.motion_module is not None:
        uri = resolve_model_uri(model.motion_module, storage.absolute(config.output_uri))
        model = model.model_copy(update={"motion_module": storage.absolute_if_there(uri)})
        recipe["schedule"] = _schedule(config, storage.absolute_if_there(uri))
    if model.domain_adapter.path is not None:
        uri = resolve_model_uri(model.domain_adapter.path, storage.absolute(config.output_uri))
        adapter = model.domain_adapter.model_copy(update={"path": storage.absolute_if_there(uri)})
        model = model.model_copy(update={"domain_adapter": adapter})
    return Recipe(**(recipe | {"model": model}))


def _schedule(config: TrainConfig, motion_module: str) -> NoiseSchedule:
    """The config's, or where it says nothing the one that the motion module was trained with before."""
    before = schedule_of(motion_module)
    if "schedule" not in config.model_fields_set:
        return before
    if motion_modules.open_file(motion_module).schedule is not None and config.schedule != before:
        logger.warning("the schedule is not the one that %s was trained with before", motion_module)
    return config.schedule


def _read(output_uri: str) -> TrainRun | None:
    uri = storage.join(output_uri, STATE_FILE)
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
    if changes and config.allow_config_change:
        logger.warning("the run goes on with a changed config: %s", "; ".join(changes))
    elif changes:
        raise UserError(
            f"{config.output_uri} holds the run {old.get('run_name')!r}, which differs in {'; '.join(changes)}: "
            "change it back, choose another output_uri, or go on all the same with --allow-config-change"
        )
