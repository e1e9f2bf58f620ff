"""The ingest job's first stage: a unit's videos are fetched, checked and cut into clips."""

import time
from typing import Any

from animatediff.data.decoding.supervisor import Supervisor
from animatediff.data.ingest.decode_unit import decode_unit
from animatediff.data.ingest.outage import storage_works
from animatediff.data.ingest.plan import Unit, UnitRef, read_unit
from pipelines.stages.ingest.stage import IngestSpec, Stage, Work


class Decode(Stage[UnitRef, Work]):
    """Fetch and decode a unit's videos."""

    takes, gives = "ref", "decoded"

    def __init__(self, spec: IngestSpec) -> None:
        self._spec = spec
        self._supervisor = Supervisor(spec.decode, spec.clips)
        self._bounds: dict[str, Any] = {"max_bytes": spec.decode.max_mb * 1_000_000, "trusted": spec.trusted}

    def run(self, taken: UnitRef) -> Work:
        """Return the unit's clips, and why its other videos gave none."""
        began = time.perf_counter()
        unit = read_unit(self._spec.output_uri, taken)
        decoded = decode_unit(unit, self._supervisor, is_outage=self._is_outage, **self._bounds)
        return Work(decoded, {"decode": time.perf_counter() - began})

    def _is_outage(self, unit: Unit) -> bool:
        spec = self._spec
        return not spec.quarantine_unreachable and not storage_works(spec.output_uri, unit, **self._bounds)
