"""What the curate job's driver tells its workers, and what they give back: units of files are scanned, shots captioned.

The two stages are two runs of Ray Data, because selection in between looks at the shots of the whole collection.
"""

from dataclasses import dataclass, field
from typing import Any

from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.shots.config import ScanLimits, ShotConfig


@dataclass(frozen=True)
class ScanSpec:
    """What the driver tells every worker that scans."""

    output_uri: str
    shots: ShotConfig
    limits: ScanLimits
    trusted: bool
    """See `SourceConfig.trusted`."""
    max_outage_s: float | None
    """Seconds that a storage which does not answer is waited for; None where it is gone for good."""


@dataclass(frozen=True)
class ScanResult:
    """What became of one committed unit."""

    unit_id: str
    num_videos: int
    num_shots: int
    hours: float
    """Of video."""
    reasons: dict[str, int]
    """Quarantined videos by reason."""
    seconds: float
    """That a worker took for it."""


@dataclass(frozen=True)
class CaptionSpec:
    """What the driver tells every worker that captions."""

    output_uri: str
    generation: int
    captions: CaptionConfig
    limits: ScanLimits
    device: str
    trusted: bool
    """See `SourceConfig.trusted`."""


@dataclass(frozen=True)
class CaptionBatch:
    """Shots that are asked for and committed together."""

    batch_id: str
    shots: list[dict[str, Any]] = field(repr=False)
    """Rows of the shot table, with `uri` as it is read from."""


@dataclass(frozen=True)
class CaptionBatchResult:
    """What became of a committed batch."""

    batch_id: str
    num_captions: int
    reasons: dict[str, int]
    """Shots whose answer cannot be used, by reason."""
    examples: dict[str, str]
    """One of those shots for each reason, and what was answered, or why it could not be asked for, as a line."""
    prompt_tokens: int
    answer_tokens: int
    num_retries: int
    seconds: float
    """That a worker took for it."""
