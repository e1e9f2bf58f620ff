"""Curation before any worker starts: what the source holds, what is scanned already, and what is left to do."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from animatediff import storage
from animatediff.data.curation import caption_parts
from animatediff.data.curation.manifest import ShotManifest, find_manifest
from animatediff.data.curation.shot_table import SCHEMA_VERSION
from animatediff.data.ingest import parts, provenance
from animatediff.data.ingest.plan import Planner, UnitRef
from animatediff.data.ingest.retry import videos_with_reasons
from animatediff.data.ingest.unredacted_uris import UnredactedUris
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.data.quarantine_table import examples
from animatediff.data.shots.detectors import load_detector
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts, describe_counts
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError, errors_with_field
from animatediff.uris import printable_place
from pipelines.settings import CurateConfig

logger = logging.getLogger(__name__)

VideoBatches = Iterator[list[SourceVideo]]
_SCAN_VERSION = 3
"""Of what a scan gives for the same video and the same settings."""


@dataclass(frozen=True)
class CurateInputs:
    """What the user named, opened and checked before anything is started."""

    videos: VideoBatches
    """The source, not read yet but for its first videos."""
    not_taken: NonVideoFileCounts
    """How many files of the source are no videos, by kind: counted while `videos` are read."""
    sealed_manifest: ShotManifest | None
    """Manifest of the collection so far; None where nothing is sealed yet."""


@dataclass(frozen=True)
class CurateJob:
    """One curation, as far as it can be known without opening a video."""

    output_uri: str
    dataset_key: str
    generation: int | None
    """Which captions the shots get, by how often they were asked for anew; None where none are asked for."""
    units: list[UnitRef]
    """The whole plan."""
    pending_units: list[UnitRef]
    """Units that are not scanned."""
    rejected_in_planning: pa.Table
    """Quarantine rows of the videos that no unit has."""
    selection: dict[str, Any]
    """What decides which shots are selected, and how they are stored."""
    sealed_manifest: ShotManifest | None
    unredacted_uris: UnredactedUris

    @property
    def kept_manifest(self) -> ShotManifest | None:
        """The collection so far, if its shards stay: they have the same captions and the same selection."""
        sealed = self.sealed_manifest
        stays = sealed and sealed.generation == self.generation and sealed.selection == self.selection
        return sealed if stays else None

    @property
    def edition(self) -> int:
        """How often shards were written anew, with this time if it is one."""
        if self.kept_manifest or not self.sealed_manifest:
            return self.kept_manifest.edition if self.kept_manifest else 0
        return self.sealed_manifest.edition + 1

    @property
    def unsealed_units(self) -> list[UnitRef]:
        """Units of the plan that no shard holds that stays."""
        return self.units[self.kept_manifest.num_units if self.kept_manifest else 0 :]


def read_inputs(config: CurateConfig) -> CurateInputs:
    """Open the source, and see what the output holds.

    Raises:
        UserError: one of them cannot be read, or the output was made with other settings.
    """
    not_taken = NonVideoFileCounts()
    with errors_with_field("shots.detector"):
        load_detector(config.shots.detector)
    with errors_with_field("source"):
        batches = read_source(config.source, not_taken)
        first = next(batches, [])
    output_uri = storage.absolute(config.output_uri)
    sealed_manifest = find_manifest(output_uri)
    has_plan = provenance.check_settings(output_uri, _settings_to_record(config))
    if sealed_manifest and not has_plan:
        raise UserError(f"{output_uri} has a {MANIFEST_NAME} but its plan/ is missing: restore it")
    if sealed_manifest is None and (config.retry_quarantined or config.recaption != "no"):
        field = "retry_quarantined" if config.retry_quarantined else "recaption"
        raise UserError(f"{output_uri} is not sealed yet: finish the job, then run it with {field}")
    _find_generation(config, sealed_manifest)
    return CurateInputs(chain([first], batches), not_taken, sealed_manifest)


def plan_job(config: CurateConfig, inputs: CurateInputs) -> CurateJob:
    """Write or extend the plan, and see what of it is done.

    Raises:
        UserError: the source or the output cannot be reached.
    """
    output_uri = storage.absolute(config.output_uri)
    dataset_key = provenance.dataset_key(_settings(config))
    if not provenance.read_settings(output_uri):
        provenance.write_settings(output_uri, _settings_to_record(config))
    unredacted_uris = UnredactedUris()
    units, rejected = extend_plan(config, unredacted_uris.remember(inputs.videos), inputs, dataset_key=dataset_key)
    log_left_out(rejected, inputs.not_taken)
    provenance.write_not_taken(output_uri, inputs.not_taken)
    scanned = parts.committed_unit_ids(output_uri)
    pending = unredacted_uris.attach(output_uri, [unit for unit in units if unit.unit_id not in scanned])
    generation = _find_generation(config, inputs.sealed_manifest)
    selection = config.model_dump(mode="json", include={"select", "store"})
    sealed = inputs.sealed_manifest
    return CurateJob(output_uri, dataset_key, generation, units, pending, rejected, selection, sealed, unredacted_uris)


def extend_plan(
    config: CurateConfig, videos: VideoBatches, inputs: CurateInputs, *, dataset_key: str | None
) -> tuple[list[UnitRef], pa.Table]:
    """Plan the videos that no unit has, and the quarantined ones that are to be tried again.

    Args:
        config: the job's.
        videos: of the source.
        inputs: the job's.
        dataset_key: None writes nothing, as a dry run does.

    Returns:
        All units, and the quarantine rows of the videos that were set aside.
    """
    output_uri = storage.absolute(config.output_uri)
    planner = Planner(
        None if dataset_key is None else output_uri,
        dataset_key=dataset_key or "dry run",
        videos_per_unit=config.videos_per_unit,
        needs_captions=False,
    )
    planner.resume(output_uri)
    num_old = len(planner.units)
    for batch in videos:
        planner.add(batch)
    num_sealed = inputs.sealed_manifest.num_units if inputs.sealed_manifest else 0
    planner.add_again(videos_with_reasons(output_uri, planner.units[:num_old], num_sealed, config.retry_quarantined))
    rejected = planner.finish()
    logger.info(
        "plan: %d videos in %d units, %d of them new; %d videos set aside",
        planner.num_videos,
        len(planner.units),
        len(planner.units) - num_old,
        len(rejected),
    )
    return planner.units, rejected


def log_left_out(rejected: pa.Table, not_taken: NonVideoFileCounts) -> None:
    """Log what of the source is no part of the plan, and why."""
    for line in examples(rejected):
        logger.warning("set aside: %s", line)
    if not_taken:
        logger.warning("not taken: %s", describe_counts(not_taken))


def caption_settings(config: CurateConfig) -> dict[str, Any]:
    """Return what decides the captions, as their generation's `settings.json` has it."""
    assert config.captions is not None
    # How the server is asked, and where it stands, decides no caption.
    how = {"url", "api_key_env", "concurrency", "tries", "timeout_s", "batch_size"}
    return config.captions.model_dump(mode="json", exclude=how)


def _find_generation(config: CurateConfig, sealed_manifest: ShotManifest | None) -> int | None:
    if config.captions is None:
        return sealed_manifest.generation if sealed_manifest else None
    sealed = sealed_manifest.generation if sealed_manifest else None
    output_uri = storage.absolute(config.output_uri)
    return caption_parts.find_generation(output_uri, caption_settings(config), sealed, config.recaption)


def _settings(config: CurateConfig) -> dict[str, Any]:
    """Return what decides which shots there are."""
    shots = config.shots.model_dump(mode="json")
    return {"schema_version": SCHEMA_VERSION, "scan_version": _SCAN_VERSION, "shots": shots}


def _settings_to_record(config: CurateConfig) -> dict[str, Any]:
    """Return what `settings.json` is to hold: the settings, and the source, as ingest's has it."""
    source = config.source
    videos_uri = storage.absolute(source.videos_uri) if source.videos_uri else None
    named = source.model_copy(update={"uri": storage.absolute(source.uri), "videos_uri": videos_uri})
    fields = named.model_dump(mode="json", exclude={"encoding", "trusted"})
    places = {name: printable_place(fields[name]) for name in ("uri", "videos_uri") if fields[name]}
    return _settings(config) | {"source": fields | places}
