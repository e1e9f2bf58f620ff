"""What the ingest job's stages hand on: a unit of videos is decoded on CPUs, scored, encoded by the VAE, and committed.

Scorers of the user's own have a stage of theirs, so that a slow one does not keep the VAE's device waiting; where none
are named there is no such stage.
"""

from dataclasses import dataclass, field

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest.decode_unit import DecodedUnit


@dataclass(frozen=True)
class IngestSpec:
    """What the driver tells every worker."""

    output_uri: str
    base: str
    dtype: str
    vae_fingerprint: str
    clips: ClipConfig
    decode: DecodeConfig
    scorers: tuple[str, ...]
    device: str
    trusted: bool
    """See `SourceConfig.trusted`."""
    quarantine_unreachable: bool
    """See `IngestConfig`."""
    max_outage_s: float
    """See `IngestConfig`."""


@dataclass
class DecodedWork:
    """A decoded unit on its way from stage to stage."""

    decoded_unit: DecodedUnit
    seconds: dict[str, float]
    """Seconds that each stage has spent on this unit so far, by stage name."""


@dataclass(frozen=True)
class UnitResult:
    """What became of one committed unit."""

    unit_id: str
    num_videos: int
    num_clips: int
    reasons: dict[str, int]
    """Quarantined videos by reason."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by stage: `decode` with fetching and the built-in scores, `score` by scorers of the user's, `encode`."""
