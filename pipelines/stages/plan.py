"""Ingest before any worker starts: what the source holds, what is done already, and what is left to do."""

import logging
from dataclasses import dataclass

from animatediff import storage
from animatediff.data import parts
from animatediff.data import plan as planning
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.data.manifest import Manifest, read_manifest
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Rejection
from animatediff.data.seal import Identity
from animatediff.data.shards import SCHEMA_VERSION
from animatediff.data.sources import read_source
from animatediff.weights.base import load_vae, resolve
from animatediff.weights.vae import fingerprint
from pipelines.settings import IngestConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestJob:
    """One ingest, as far as it can be known without decoding anything."""

    output_uri: str
    base: str
    dtype: str
    identity: Identity
    units: list[Unit]
    """The whole plan."""
    pending: list[Unit]
    """Units without a committed part."""
    rejected: list[Rejection]
    """Videos set aside while planning."""
    sealed: Manifest | None
    """The dataset so far."""

    @property
    def is_sealed(self) -> bool:
        """Whether every unit is in a shard already."""
        return self.sealed is not None and self.sealed.num_units == len(self.units)


def prepare(config: IngestConfig, *, use_gpu: bool) -> IngestJob:
    """Read the source, and write or extend the plan.

    Raises:
        UserError: the source or the base cannot be read, or the output holds a dataset with other settings.
    """
    output_uri = storage.absolute(config.output_uri)
    base = resolve(config.base)
    dtype = config.vae_dtype if config.vae_dtype != "auto" else ("float16" if use_gpu else "float32")
    vae = load_vae(base)
    encoder_fp = fingerprint(vae, dtype)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "clips": config.clips.model_dump(),
        "vae_dtype": dtype,
        "encoder_fp": encoder_fp,
    }
    identity = Identity(
        dataset_key=planning.dataset_key(settings),
        encoder_fp=encoder_fp,
        scaling_factor=vae.config.scaling_factor,
        num_frames=config.clips.num_frames,
        bucket=config.clips.bucket,
    )
    old_units = planning.read_plan(output_uri, settings)
    units, rejected = _plan(config, old_units, identity.dataset_key)
    if len(units) > len(old_units):
        planning.write_plan(output_uri, units, settings)
    sealed = read_manifest(output_uri) if storage.exists(storage.join(output_uri, MANIFEST_NAME)) else None
    done = parts.committed(output_uri)
    pending = [unit for unit in units[sealed.num_units if sealed else 0 :] if unit.unit_id not in done]
    return IngestJob(output_uri, base, dtype, identity, units, pending, rejected, sealed)


def _plan(config: IngestConfig, old: list[Unit], key: str) -> tuple[list[Unit], list[Rejection]]:
    source = config.source
    videos_uri = storage.absolute(source.videos_uri) if source.videos_uri else None
    videos, rejected = planning.select(read_source(storage.absolute(source.uri), videos_uri=videos_uri))
    videos_per_unit = max(1, config.clips_per_unit // config.clips.windows_per_video)
    units = planning.extend(old, videos, key=key, videos_per_unit=videos_per_unit)
    logger.info(
        "plan: %d videos in %d units (%d new units), %d set aside",
        len(videos),
        len(units),
        len(units) - len(old),
        len(rejected),
    )
    return units, rejected
