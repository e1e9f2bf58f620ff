"""The folder of a training run: what it was started with, and how far it is."""

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config, differing_fields, dump, first_problem
from animatediff.data.loading.loader import ClipLoader, latent_shapes
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import Manifest, check_shards, read_manifest
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError, errors_with_field
from animatediff.rendering.checks.files import FileInField, check_files
from animatediff.training.config import TrainingConfig
from animatediff.training.dataset_fit import check_dataset_fits
from animatediff.training.long_captions import count_long_captions
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.uris import printable_values
from animatediff.weights.base_facts import BaseFacts, load_config
from animatediff.yaml_files import read_yaml
from pipelines.outputs.file_names import CONFIG_FILE, RUN_FILE
from pipelines.settings import TrainJobConfig
from pipelines.stages.train import earlier_runs
from pipelines.tracking.model_uris import fetch_weights
from pipelines.tracking.run_context import DataInput

logger = logging.getLogger(__name__)

# These may differ between a run and its continuation: they change no step that is done already. Differences are told as
# `section.field: old -> new`, of which these are the beginnings: up to the colon a field, up to a dot all of a section.
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
    "dry_run:",
    "rate:",
    "rate.",
)

_NamedManifest = tuple[str, Manifest]
"""A dataset's URI, and its manifest."""


class DataVersion(Config):
    """What a run trains on of one dataset."""

    digest: str
    num_shards: int
    num_clips: int

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the dataset as it is sealed now."""
        return cls(digest=manifest.digest(), num_shards=len(manifest.shards), num_clips=manifest.num_clips)


class RunState(Config):
    """State of a run, kept as `run.json`."""

    dataset_digest: str
    """Version of the dataset that it trains on, and of the one that is mixed in."""
    datasets: tuple[DataVersion, ...] = ()
    """Each of these in full; empty in the runs of earlier versions, which kept one of `Manifest.guess_old_digests`."""
    noise_schedule: NoiseSchedule | None = None
    """What it trains with; None in the runs of earlier versions."""
    mlflow_run_id: str | None = None
    """The MLflow run that later jobs continue."""
    num_steps: int = 0
    """Steps of the weights that are written; 0 while there are none."""
    registered: str | None = None
    """URI in MLflow of these weights, `models:/NAME/VERSION`; None also in the runs of earlier versions."""
    first_loss: float | None = None
    """Mean loss of the first logged steps."""
    loss: float | None = None
    """Moving average of the loss at the end."""

    def write(self, output_uri: str) -> None:
        """Write the state into the run's folder."""
        storage.write_bytes(storage.join(output_uri, RUN_FILE), self.model_dump_json(indent=2).encode() + b"\n")


class TrainJob(NamedTuple):
    """A run that is ready to be started or continued."""

    recipe: Recipe
    """The config's, its local paths absolute and its noise schedule complete."""
    manifest: Manifest
    num_clips: int
    """Clips of the dataset that are trained on."""
    num_held_out: int
    """Clips of the dataset that the loss is validated on."""
    run: RunState
    inputs: list[DataInput]
    """What it trains on, as MLflow is told."""
    weights_uri: str
    """URI of the weights file that comes out."""


def check_job(config: TrainJobConfig, fetched_weights_folder: str) -> TrainJob:
    """Check everything that can be checked without a worker; nothing is written to the run's folder.

    Args:
        config: the run's.
        fetched_weights_folder: folder below which weights are put that MLflow keeps.

    Raises:
        UserError: the dataset or the base cannot be read, they do not fit, no clip is chosen, or the folder holds a run
            with another config or on another version of the dataset. The line begins with the field.
    """
    with errors_with_field("dataset_uri"):
        manifest = read_manifest(config.dataset_uri)
        check_shards(config.dataset_uri, manifest)
    resolved = _resolve_config(config, fetched_weights_folder)
    recipe = recipe_of(resolved)
    _check_files(resolved)
    for shape in latent_shapes(resolved.dataset_uri, manifest):
        recipe.check_fit(shape)
    recipe.check_start()
    check_dataset_fits(resolved.base, manifest)
    num_clips = _count_chosen_clips(resolved, resolved.dataset_uri, manifest, resolved.where)
    validates = config.sample.every > 0 and resolved.train.holdout > 0
    held_out = (
        _count_chosen_clips(resolved, resolved.dataset_uri, manifest, resolved.where, held_out=True) if validates else 0
    )
    manifests = [(resolved.dataset_uri, manifest)]
    if resolved.mix.dataset_uri is not None:
        with errors_with_field("mix"):
            manifests.append((resolved.mix.dataset_uri, _read_mix(recipe, resolved.mix.dataset_uri, manifest)))
    long = count_long_captions(resolved.dataset_uri, manifest, resolved.base, resolved.text.chunks)
    logger.log(logging.WARNING if long.number else logging.INFO, "%s", long)
    weights_uri = storage.join(storage.absolute(config.output_uri), recipe.weights_file)
    inputs = [_mlflow_input(uri, found) for uri, found in manifests]
    return TrainJob(
        recipe, manifest, num_clips, held_out, _read_or_start_run(config, recipe, manifests), inputs, weights_uri
    )


def start_or_resume(config: TrainJobConfig) -> TrainJob:
    """Start a run in its folder or take it up, once all that `check_job` checks is well.

    Raises:
        UserError: as `check_job` says.
    """
    job = check_job(config, storage.absolute(config.output_uri))
    storage.write_bytes(storage.join(config.output_uri, CONFIG_FILE), dump(config).encode())
    job.run.write(config.output_uri)
    return job


def _count_chosen_clips(
    config: RecipeConfig, uri: str, manifest: Manifest, where: str, *, held_out: bool = False
) -> int:
    """Return how many clips are chosen of a dataset; finding none is told here, and not by a worker."""
    chosen = ClipFilter(where=where, holdout=config.train.holdout, held_out=held_out)
    return ClipLoader(uri, manifest, Batching(batch_size=1, seed=0), chosen).num_clips


def _mlflow_input(uri: str, manifest: Manifest) -> DataInput:
    counts = {"clips": manifest.num_clips, "videos": manifest.num_videos, "shards": len(manifest.shards)}
    return DataInput(uri, manifest.digest(), counts)


def _read_mix(recipe: Recipe, other_uri: str, manifest: Manifest) -> Manifest:
    """Return the second dataset's manifest, checked against the first."""
    other = read_manifest(other_uri)
    check_shards(other_uri, other)
    if other.encoder_fp != manifest.encoder_fp:
        raise UserError(
            f"{other_uri} and {recipe.config.dataset_uri} were encoded by different VAEs or in different "
            "precision: their latents do not mix, ingest one of them anew"
        )
    for shape in latent_shapes(other_uri, other):
        recipe.check_fit(shape)
    _count_chosen_clips(recipe.config, other_uri, other, recipe.config.mix.where)
    return other


def _check_files(config: RecipeConfig) -> None:
    """Refuse what no worker could open, by the field that names it."""
    load_config(config.base, "unet")
    kind = BaseFacts(config.base).architecture
    named = {
        f"base_checkpoints[{index}]": FileInField(uri, "checkpoint", kind)
        for index, uri in enumerate(config.base_checkpoints)
        if uri != BASE_AS_IS
    }
    if config.model.domain_adapter.path is not None:
        named["model.domain_adapter.path"] = FileInField(config.model.domain_adapter.path, "domain_adapter", kind)
    problems = check_files(named.values())
    for field, file in named.items():
        if file in problems:
            raise UserError(f"{field}: {problems[file]}")


def _read_or_start_run(config: TrainJobConfig, recipe: Recipe, manifests: Sequence[_NamedManifest]) -> RunState:
    """Return the run that the folder holds, or a new one."""
    run = _read(config.output_uri)
    if run is not None:
        _check_unchanged(config, recipe, run, manifests)
    versions = tuple(DataVersion.of(manifest) for _, manifest in manifests)
    data = {
        "dataset_digest": "+".join(version.digest for version in versions),
        "datasets": versions,
        "noise_schedule": recipe.noise_schedule,
    }
    return run.model_copy(update=data) if run else RunState.model_validate(data)


def _resolve_config(config: TrainJobConfig, fetched_weights_folder: str) -> RecipeConfig:
    """Return the config that workers get.

    Its local paths are absolute, as workers have another working directory; weights that MLflow keeps are fetched below
    `fetched_weights_folder`; and the noise schedule is complete.
    """
    fields = {name: getattr(config, name) for name in TrainingConfig.model_fields}
    fields["dataset_uri"] = storage.absolute(config.dataset_uri)
    fields["base"] = storage.absolute_if_there(config.base)
    fields["base_checkpoints"] = tuple(
        name if name == BASE_AS_IS else storage.absolute(name) for name in config.base_checkpoints
    )
    if config.mix.dataset_uri is not None:
        fields["mix"] = config.mix.model_copy(update={"dataset_uri": storage.absolute(config.mix.dataset_uri)})
    model = config.model
    for field in ("motion_module", "sparse_control"):
        if (uri := getattr(model, field)) is not None:
            with errors_with_field(f"model.{field}"):
                uri = storage.absolute_if_there(fetch_weights(uri, fetched_weights_folder))
            model = model.model_copy(update={field: uri})
    if model.domain_adapter.path is not None:
        with errors_with_field("model.domain_adapter.path"):
            uri = storage.absolute_if_there(fetch_weights(model.domain_adapter.path, fetched_weights_folder))
        adapter = model.domain_adapter.model_copy(update={"path": uri})
        model = model.model_copy(update={"domain_adapter": adapter})
    return recipe_of(TrainingConfig(**(fields | {"model": model}))).resolved_config


def _read(output_uri: str) -> RunState | None:
    uri = storage.join(output_uri, RUN_FILE)
    try:
        return RunState.model_validate_json(storage.read_bytes(uri))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{uri} is not the state of a training run: {first_problem(error)}") from error


def _check_unchanged(
    config: TrainJobConfig, recipe: Recipe, run: RunState, manifests: Sequence[_NamedManifest]
) -> None:
    old = earlier_runs.with_defaults_of_newer_sections(read_yaml(storage.join(config.output_uri, CONFIG_FILE)))
    new = config.model_dump(mode="json")
    changes = differing_fields(printable_values(old | earlier_runs.schedule_without_defaults(old, new)), new)
    changes = [change for change in changes if not change.startswith(_MAY_CHANGE)]
    before = run.noise_schedule or earlier_runs.schedule_trained_with(old, recipe)
    if before is not None and not any(change.startswith("schedule.") for change in changes):
        # The motion module's file may hold another schedule now, or one that the earlier version did not read.
        was, now = (schedule.model_dump() for schedule in (before, recipe.noise_schedule))
        changes += differing_fields(was, now, "the noise schedule's ")
    changes += _changed_clips(run, manifests)
    if changes and config.allow_config_change:
        logger.warning("the run goes on with a changed config: %s", "; ".join(changes))
    elif changes:
        raise UserError(
            f"{config.output_uri} holds the run {old.get('run_name')!r}, which differs in {'; '.join(changes)}: "
            "change it back, choose another output_uri, or go on all the same with --allow-config-change"
        )


def _changed_clips(run: RunState, manifests: Sequence[_NamedManifest]) -> Iterator[str]:
    """Yield the datasets that are not what the run has trained on so far."""
    digests = run.dataset_digest.split("+")
    # Another number of datasets is a change of the config, which is told by itself.
    for number, (digest, (uri, manifest)) in enumerate(zip(digests, manifests, strict=False)):
        if digest == manifest.digest():
            continue
        if not run.datasets:
            if digest not in manifest.guess_old_digests():
                yield f"the content of {uri}"
            continue
        before = run.datasets[number]
        added = manifest.num_clips - before.num_clips
        if added > 0 and digest == manifest.digest(before.num_shards):
            yield f"the clips of {uri} ({added} were added to {before.num_clips})"
        else:
            yield f"the clips of {uri} (its {manifest.num_clips} are not the {before.num_clips} of before)"
