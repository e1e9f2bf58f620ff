"""Ingest before any worker starts: what the source holds, what is done already, and what is left to do."""

import logging
from dataclasses import dataclass

import pyarrow.compute as pc
from diffusers import AutoencoderKL

from animatediff import storage
from animatediff.data import parts, quarantine
from animatediff.data import plan as planning
from animatediff.data.manifest import FILE_NAME as MANIFEST_NAME
from animatediff.data.manifest import Manifest, read_manifest
from animatediff.data.plan import Unit
from animatediff.data.quarantine import Rejection
from animatediff.data.seal import Identity, read_quarantine
from animatediff.data.shards import SCHEMA_VERSION
from animatediff.data.sources import SourceVideo, read_source
from animatediff.errors import UserError
from animatediff.weights.base import load_vae
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
        """Whether every video of the source is in a shard or in quarantine already."""
        if self.sealed is None or self.sealed.num_units < len(self.units):
            return False
        rows = read_quarantine(self.output_uri)
        in_plan = rows.filter(pc.equal(rows["unit_id"], ""))
        return in_plan.to_pylist() == quarantine.to_table(self.rejected).to_pylist()


@dataclass(frozen=True)
class Inputs:
    """What the user named, read and checked before anything is started."""

    videos: list[SourceVideo]
    rejected: list[Rejection]
    base: str
    vae: AutoencoderKL


def read_inputs(config: IngestConfig) -> Inputs:
    """Read the source and the base's VAE.

    Raises:
        UserError: one of them cannot be read.
    """
    base = storage.absolute_if_there(config.base)
    vae = load_vae(base)
    source = config.source
    videos_uri = storage.absolute(source.videos_uri) if source.videos_uri else None
    videos, rejected = planning.select(read_source(storage.absolute(source.uri), videos_uri=videos_uri))
    return Inputs(videos, rejected, base, vae)


def prepare(config: IngestConfig, inputs: Inputs, *, use_gpu: bool) -> IngestJob:
    """Write or extend the plan, and see what of it is done.

    Raises:
        UserError: the output holds a dataset with other settings, or cannot be reached.
    """
    output_uri = storage.absolute(config.output_uri)
    dtype = config.vae_dtype if config.vae_dtype != "auto" else ("float16" if use_gpu else "float32")
    encoder_fp = fingerprint(inputs.vae, dtype)
    settings = {
        "schema_version": SCHEMA_VERSION,
        "clips": config.clips.model_dump(),
        "vae_dtype": dtype,
        "encoder_fp": encoder_fp,
    }
    identity = Identity(
        dataset_key=planning.dataset_key(settings),
        encoder_fp=encoder_fp,
        scaling_factor=inputs.vae.config.scaling_factor,
        num_frames=config.clips.num_frames,
        bucket=config.clips.bucket,
    )
    sealed = read_manifest(output_uri) if storage.exists(storage.join(output_uri, MANIFEST_NAME)) else None
    units = _extend_plan(config, output_uri, settings, inputs, sealed)
    done = parts.committed(output_uri)
    pending = [unit for unit in units[sealed.num_units if sealed else 0 :] if unit.unit_id not in done]
    return IngestJob(output_uri, inputs.base, dtype, identity, units, pending, inputs.rejected, sealed)


def _extend_plan(
    config: IngestConfig, output_uri: str, settings: dict[str, object], inputs: Inputs, sealed: Manifest | None
) -> list[Unit]:
    # The source is no part of the key, as a moved source gives the same clips; but two sources may not share ids.
    source = {name: uri and storage.absolute(uri) for name, uri in config.source.model_dump().items()}
    recorded = settings | {"source": source}
    old = planning.read_plan(output_uri, recorded)
    if sealed and sealed.num_units > len(old):
        raise UserError(f"{output_uri} has a manifest but its {planning.FILE_NAME} is missing: restore it")
    videos_per_unit = max(1, config.clips_per_unit // config.clips.windows_per_video)
    key = planning.dataset_key(settings)
    units = planning.extend(old, inputs.videos, key=key, videos_per_unit=videos_per_unit)
    if len(units) > len(old):
        planning.write_plan(output_uri, units, recorded)
    logger.info(
        "plan: %d videos in %d units, %d of them new; %d videos set aside",
        len(inputs.videos),
        len(units),
        len(units) - len(old),
        len(inputs.rejected),
    )
    return units
