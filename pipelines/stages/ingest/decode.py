"""The ingest job's first stage: a unit's videos are fetched, checked and cut into clips."""

import time
from typing import Any

from animatediff import storage
from animatediff.data.decoding.supervisor import DecodeSupervisor
from animatediff.data.ingest.decode_unit import decode_unit
from animatediff.data.ingest.outage import storage_works
from animatediff.data.ingest.plan import Unit, UnitRef, read_unit
from animatediff.data.shots.copies.supervisor import CopySupervisor
from pipelines.cluster.stage import Stage
from pipelines.stages.ingest.stage import DecodedWork, IngestSpec


class Decode(Stage[UnitRef, DecodedWork]):
    """Fetch and decode a unit's videos."""

    input_column, output_column = "ref", "decoded"

    def __init__(self, spec: IngestSpec) -> None:
        self._spec = spec
        self._supervisor = DecodeSupervisor(spec.decode, spec.clips)
        self._copies = CopySupervisor(spec.decode)
        storage.use_patient_retries()
        self._fetch_options: dict[str, Any] = {"max_bytes": spec.decode.max_mb * 1_000_000, "trusted": spec.trusted}

    def process(self, work: UnitRef) -> DecodedWork:
        """Return the unit's clips, and why its other videos gave none."""
        began = time.perf_counter()
        unit = read_unit(self._spec.output_uri, work)
        decoded = decode_unit(
            unit,
            self._supervisor,
            copies=self._copies,
            is_outage=self._is_outage,
            max_outage_s=None if self._spec.quarantine_unreachable else self._spec.max_outage_s,
            **self._fetch_options,
        )
        return DecodedWork(decoded, {"decode": time.perf_counter() - began})

    def _is_outage(self, unit: Unit) -> bool:
        return not storage_works(self._spec.output_uri, unit, **self._fetch_options)
