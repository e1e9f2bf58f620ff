"""Ingest before any worker starts: what the source holds, what is done already, and what is left to do."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from diffusers import AutoencoderKL

from animatediff import storage
from animatediff.data import quarantine_table
from animatediff.data.clips.config import ClipConfig
from animatediff.data.ingest import parts, provenance
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.plan import Planner, UnitRef
from animatediff.data.ingest.retry import videos_with_reasons
from animatediff.data.ingest.seal import LatentEncoding, read_quarantine
from animatediff.data.ingest.unredacted_uris import UnredactedUris
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.data.manifest import Manifest, check_shards, read_manifest
from animatediff.data.scoring.scorers import load_scorer
from animatediff.data.shards import SCHEMA_VERSION
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts, describe_counts
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig, SourceVideo
from animatediff.errors import UsageError, UserError, errors_with_field
from animatediff.models.vae import fingerprint
from animatediff.uris import printable_place
from animatediff.weights.base import load_vae
from animatediff.weights.base_facts import BaseFacts
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.precision import vae_dtype, warn_of_overflow

logger = logging.getLogger(__name__)

# Assumed clips a video for unbounded `windows: all`: it sizes the units and a dry run's estimate. A WebVid video lasts
# 18 s on average, and a clip of 16 frames at 8 frames a second 2 s.
_TYPICAL_CLIPS = 8
VideoBatches = Iterator[list[SourceVideo]]


@dataclass(frozen=True)
class IngestJob:
    """One ingest, as far as it can be known without decoding anything."""

    output_uri: str
    base: str
    dtype: str
    latent_encoding: LatentEncoding
    units: list[UnitRef]
    """The whole plan."""
    pending_units: list[UnitRef]
    """Units without a committed part."""
    rejected_in_planning: pa.Table
    """Quarantine rows of the videos that no unit has."""
    sealed_manifest: Manifest | None
    """Manifest of the dataset so far; None where nothing is sealed yet."""

    @property
    def unsealed_units(self) -> list[UnitRef]:
        """Units of the plan that no shard holds yet."""
        return _unsealed(self.units, self.sealed_manifest)

    @property
    def is_complete(self) -> bool:
        """Whether every video of the source is in a shard or in quarantine already."""
        if self.sealed_manifest is None or self.unsealed_units:
            return False
        rows = read_quarantine(self.output_uri)
        return rows.filter(pc.equal(rows["unit_id"], "")).to_pylist() == self.rejected_in_planning.to_pylist()


@dataclass(frozen=True)
class IngestInputs:
    """What the user named, opened and checked before anything is started."""

    videos: VideoBatches
    """The source, not read yet but for its first videos."""
    not_taken: NonVideoFileCounts
    """How many files of the source are no videos, by kind: counted while `videos` are read."""
    base_facts: BaseFacts
    vae: AutoencoderKL


def read_inputs(config: IngestConfig) -> IngestInputs:
    """Open the source and read the base's VAE.

    Raises:
        UserError: one of them cannot be read, or the VAE takes no clips of such sizes.
    """
    base = storage.absolute_if_there(config.base)
    vae, facts = load_vae(base), BaseFacts(base)
    _check_sizes(config.clips, facts)
    warn_of_overflow(config, facts)
    not_taken = NonVideoFileCounts()
    with errors_with_field("scorers"):
        for path in config.scorers:
            load_scorer(path)
    with errors_with_field("source"):
        batches = read_source(config.source, not_taken)
        first = next(batches, [])
    return IngestInputs(chain([first], batches), not_taken, facts, vae)


def _check_sizes(clips: ClipConfig, facts: BaseFacts) -> None:
    sides = [("clips.height", clips.height), ("clips.width", clips.width)]
    sides += [(f"clips.sizes[{i}]", pixels) for i, size in enumerate(clips.sizes) for pixels in size]
    sides += [("clips.aspect_ratios: a size of", pixels) for size in clips.all_sizes for pixels in size]
    for field, pixels in sides:
        if problem := facts.size_problem(field, pixels):
            raise UsageError(f"{problem}, as the VAE of base {facts.base} has it")


def clips_per_video(clips: ClipConfig) -> int:
    """Return how many clips a video gives at most; with `windows: all` and no bound, about."""
    num_starts = clips.windows_per_video or (_TYPICAL_CLIPS if clips.windows == "all" else 1)
    return num_starts * (2 if clips.flip else 1)


def absolute_source(config: IngestConfig) -> SourceConfig:
    """Return the source, so that a process with another working directory opens the same files."""
    source = config.source
    videos_uri = storage.absolute(source.videos_uri) if source.videos_uri else None
    return source.model_copy(update={"uri": storage.absolute(source.uri), "videos_uri": videos_uri})


def plan_job(config: IngestConfig, inputs: IngestInputs, *, use_gpu: bool) -> IngestJob:
    """Write or extend the plan, and see what of it is done.

    Raises:
        UserError: the output holds a dataset with other settings, or cannot be reached.
    """
    output_uri = storage.absolute(config.output_uri)
    dtype = vae_dtype(config, inputs.base_facts, use_gpu=use_gpu)
    settings = _settings(config, inputs, dtype)
    dataset_key = provenance.dataset_key(settings)
    sealed_manifest, is_new = _read_dataset(config, output_uri, settings)
    if is_new:
        provenance.write_settings(output_uri, _settings_to_record(config, settings))
    unredacted_uris = UnredactedUris()
    videos = unredacted_uris.remember(inputs.videos)
    units, rejected = extend_plan(config, videos, sealed_manifest, dataset_key=dataset_key)
    log_left_out(rejected, inputs.not_taken)
    provenance.write_not_taken(output_uri, inputs.not_taken)
    done = parts.committed_unit_ids(output_uri)
    pending = [unit for unit in _unsealed(units, sealed_manifest) if unit.unit_id not in done]
    pending = unredacted_uris.attach(output_uri, pending)
    facts = inputs.base_facts
    latent_encoding = LatentEncoding(
        dataset_key, settings["encoder_fp"], facts.scaling_factor, facts.latent_channels, facts.latent_factor
    )
    return IngestJob(output_uri, facts.base, dtype, latent_encoding, units, pending, rejected, sealed_manifest)


def _unsealed(units: list[UnitRef], sealed_manifest: Manifest | None) -> list[UnitRef]:
    """Return the units that no shard holds yet: units are sealed in plan order."""
    return units[sealed_manifest.num_units if sealed_manifest else 0 :]


def with_decoders_of_dataset(config: IngestConfig) -> IngestConfig:
    """Return the config with the decoders that the output's dataset was begun with, where it names none itself.

    The default may change from release to release, and with it the pixels: a dataset keeps its own.
    """
    recorded = provenance.read_settings(storage.absolute(config.output_uri)).get("decoders")
    if not recorded or "decoders" in config.decode.model_fields_set or tuple(recorded) == config.decode.decoders:
        return config
    logger.info("decoders: %s, as the dataset was begun", ", ".join(recorded))
    decode = config.decode.model_copy(update={"decoders": tuple(recorded)})
    return config.model_copy(update={"decode": decode})


def find_sealed_dataset(config: IngestConfig, inputs: IngestInputs) -> Manifest | None:
    """Return the manifest of the dataset that the output holds, if one is sealed; nothing is written.

    It is checked, before there is a cluster, that the output can take what the job would make.

    Raises:
        UserError: it holds a dataset with other settings, or cannot be reached.
    """
    output_uri = storage.absolute(config.output_uri)
    dtype = vae_dtype(config, inputs.base_facts, use_gpu=config.use_gpu or False)
    # Which precision `auto` means is the cluster's to say: until then it is the one of the dataset that is there.
    if config.vae_dtype == "auto" and config.use_gpu is None:
        recorded_dtype = provenance.read_settings(output_uri).get("vae_dtype")
        dtype = recorded_dtype if recorded_dtype in ("float16", "float32") else dtype
    return _read_dataset(config, output_uri, _settings(config, inputs, dtype))[0]


def _settings(config: IngestConfig, inputs: IngestInputs, dtype: str) -> dict[str, Any]:
    """Return what decides a clip's latents, as the plan's `settings.json` and the dataset's key have it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "clips": config.clips.model_dump(mode="json"),
        "decoders": list(config.decode.decoders),
        "scorers": list(config.scorers),
        "vae_dtype": dtype,
        "encoder_fp": fingerprint(inputs.vae, dtype),
    }


def _settings_to_record(config: IngestConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what `settings.json` is to hold: the settings, and the source."""
    # The source is no part of the key, as a moved source gives the same clips; but two sources may not share ids.
    # How captions are read, and what is fetched, may change: videos that become readable are planned as new ones.
    source = absolute_source(config).model_dump(mode="json", exclude={"encoding", "trusted"})
    places = {name: printable_place(source[name]) for name in ("uri", "videos_uri") if source[name]}
    return settings | {"source": source | places}


def _read_dataset(config: IngestConfig, output_uri: str, settings: dict[str, Any]) -> tuple[Manifest | None, bool]:
    """Return the dataset so far, checked against these settings, and whether its plan is yet to be begun.

    Raises:
        UserError: it was made with other settings, or a piece of it is missing.
    """
    sealed_manifest = read_manifest(output_uri) if storage.exists(storage.join(output_uri, MANIFEST_NAME)) else None
    has_plan = provenance.check_settings(output_uri, _settings_to_record(config, settings))
    if sealed_manifest:
        check_shards(output_uri, sealed_manifest)
    elif has_plan and _has_shards(output_uri) and not parts.committed_unit_ids(output_uri):
        # What it was made from is deleted when it is sealed, and not before.
        raise UserError(
            f"{output_uri} was sealed, but its {MANIFEST_NAME} is missing: restore it, or delete the folders "
            "bucket=* to encode all videos again"
        )
    if sealed_manifest and not has_plan:
        raise UserError(f"{output_uri} has a manifest but its {planning.PLAN_FOLDER}/ is missing: restore it")
    if sealed_manifest is None and config.retry_quarantined:
        raise UserError(f"{output_uri} is not sealed yet: finish the job, then run it with retry_quarantined")
    return sealed_manifest, not has_plan


def _has_shards(output_uri: str) -> bool:
    return any(name.startswith("bucket=") for name in storage.list_names(output_uri))


def extend_plan(
    config: IngestConfig, videos: VideoBatches, sealed_manifest: Manifest | None, *, dataset_key: str | None
) -> tuple[list[UnitRef], pa.Table]:
    """Plan the videos that no unit has, and the quarantined ones that are to be tried again.

    Args:
        config: the job's.
        videos: of the source.
        sealed_manifest: the dataset so far.
        dataset_key: None writes nothing, as a dry run does.

    Returns:
        All units, and the quarantine rows of the videos that were set aside.
    """
    output_uri = storage.absolute(config.output_uri)
    planner = Planner(
        None if dataset_key is None else output_uri,
        dataset_key=dataset_key or "dry run",
        videos_per_unit=max(1, config.clips_per_unit // clips_per_video(config.clips)),
    )
    planner.resume(output_uri)
    num_old = len(planner.units)
    if sealed_manifest and sealed_manifest.num_units > num_old:
        raise UserError(
            f"the plan of {output_uri} has fewer units than its manifest: restore its {planning.PLAN_FOLDER}/"
        )
    for batch in videos:
        planner.add(batch)
    num_sealed = sealed_manifest.num_units if sealed_manifest else 0
    videos_to_retry = videos_with_reasons(output_uri, planner.units[:num_old], num_sealed, config.retry_quarantined)
    planner.add_again(videos_to_retry)
    rejected = planner.finish()
    logger.info(
        "plan: %d videos in %d units, %d of them new; %d videos set aside%s",
        planner.num_videos,
        len(planner.units),
        len(planner.units) - num_old,
        len(rejected),
        f"; {len(videos_to_retry)} quarantined ones are tried again" if config.retry_quarantined else "",
    )
    return planner.units, rejected


def log_left_out(rejected: pa.Table, not_taken: NonVideoFileCounts) -> None:
    """Log what of the source is no part of the plan, and why."""
    for line in quarantine_table.examples(rejected):
        logger.warning("set aside: %s", line)
    if not_taken:
        logger.warning("not taken: %s", describe_counts(not_taken))
