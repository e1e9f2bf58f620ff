"""The stages of the ingest job: a unit of videos is decoded on CPUs, scored, encoded by the VAE, and committed.

Each of these is a `Stage`: actors of its own, between which Ray Data carries the units. Scorers of the user's own have
theirs, so that a slow one does not keep the VAE's device waiting; where none are named there is no such stage. Each
stands in a file of its own, so that its processes import no more than they need: without torch a decoder starts in a
second, and takes a fifth of the memory.
"""

import pickle
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest.decode_unit import DecodedUnit
from animatediff.errors import UserError

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


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


class Stage(ABC, Generic[InputT, OutputT]):
    """One step of a unit's way, of which Ray Data runs a pool of actors.

    A row between two stages has two columns: the unit, pickled, and `error`, empty where all is well. What a user can
    mend travels as a row's error, because Ray Data keeps of a raised exception only its text.
    """

    input_column: ClassVar[str]
    """Name of the column that it reads."""
    output_column: ClassVar[str]
    """Name of the column that it writes in its place."""
    cpus: ClassVar[float] = 0.5
    """CPUs of one actor: half of one, so that a decoder and an encoder fit on a machine of one."""
    uses_device: ClassVar[bool] = False
    """Whether an actor computes on a GPU of its own, where the job uses any."""

    @classmethod
    def resources(cls, spec: IngestSpec) -> dict[str, float]:
        """Return what one actor reserves, by Ray's names."""
        gpu = {"GPU": 1.0} if cls.uses_device and spec.device == "cuda" else {}
        return {"CPU": cls.cpus} | gpu

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Turn a row of `input_column` and `error` into one of `output_column` and `error`; an error passes through."""
        (data,), (error,) = batch[self.input_column], batch["error"]
        output = b""
        if not error:
            try:
                output = pickle.dumps(self.process(pickle.loads(data)), protocol=5)
            except UserError as mendable:
                error = str(mendable)
        return {self.output_column: [output], "error": [error]}

    @abstractmethod
    def process(self, work: InputT) -> OutputT:
        """Do the stage's work on one unit.

        Raises:
            UserError: what ends the job with one line; the unit stays pending.
        """
