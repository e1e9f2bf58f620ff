"""The curate job's first stage: a unit's videos are looked through once, and cut into shots."""

import time
from collections import Counter
from collections.abc import Callable

from animatediff import storage
from animatediff.data.curation import scan_parts
from animatediff.data.ingest.outage import storage_works
from animatediff.data.ingest.plan import Unit, UnitRef, read_unit
from animatediff.data.quarantine import Reason, Rejection, VideoError
from animatediff.data.shots.shot import ScannedVideo
from animatediff.data.shots.supervisor import ShotSupervisor
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from animatediff.uris import printable_uri
from pipelines.cluster.stage import Stage
from pipelines.stages.curate.stage import ScanResult, ScanSpec

_LOOK_AGAIN_S = 5.0
_ENOUGH_TO_ANSWER = 1  # bytes: larger files say that they are too large, and that is an answer


class Scan(Stage[UnitRef, ScanResult]):
    """Scan a unit's videos and commit their shots."""

    input_column, output_column = "ref", "result"
    cpus = 1.0

    def __init__(self, spec: ScanSpec) -> None:
        self._spec = spec
        self._supervisor = ShotSupervisor(spec.shots, spec.limits)
        storage.use_patient_retries()

    def process(self, work: UnitRef) -> ScanResult:
        """Write the unit's part: its shots, and why its other videos gave none."""
        began = time.perf_counter()
        unit = read_unit(self._spec.output_uri, work)
        rows: list[dict[str, object]] = []
        rejections: list[Rejection] = []
        duration_s = 0.0
        for video in unit.videos:
            try:
                scanned = self._scan(unit, video)
            except VideoError as error:
                rejections.append(_reject(unit, video, error))
            else:
                rows += scan_parts.shot_rows(unit.unit_id, video, scanned)
                duration_s += scanned.duration_s
        scan_parts.commit(self._spec.output_uri, unit.unit_id, rows, rejections)
        reasons = dict(Counter(str(rejection.reason) for rejection in rejections))
        seconds = time.perf_counter() - began
        return ScanResult(unit.unit_id, len(unit.videos), len(rows), duration_s / 3600, reasons, seconds)

    def _scan(self, unit: Unit, video: SourceVideo) -> ScannedVideo:
        """Scan a video; where its storage is down, wait for it.

        Raises:
            VideoError: the video cannot be used.
            UserError: the storage did not come back: the unit stays pending.
        """

        def scan() -> ScannedVideo:
            return self._supervisor.scan(video.uri, trusted=self._spec.trusted)

        try:
            return scan()
        except VideoError as error:
            if error.reason is not Reason.FETCH_ERROR or self._spec.max_outage_s is None or self._storage_works(unit):
                raise
            if not _comes_back(lambda: self._storage_works(unit), self._spec.max_outage_s):
                raise UserError(
                    f"neither {printable_uri(video.uri)} nor others beside it can be read, is the storage down? "
                    f"{error.detail}; if it is gone for good, quarantine_unreachable puts its videos aside"
                ) from error
        return scan()

    def _storage_works(self, unit: Unit) -> bool:
        uri, trusted = self._spec.output_uri, self._spec.trusted
        return storage_works(uri, unit, max_bytes=_ENOUGH_TO_ANSWER, trusted=trusted)


def _comes_back(works: Callable[[], bool], max_outage_s: float) -> bool:
    deadline = time.monotonic() + max_outage_s
    while time.monotonic() < deadline:
        time.sleep(min(_LOOK_AGAIN_S, max_outage_s))
        if works():
            return True
    return False


def _reject(unit: Unit, video: SourceVideo, error: VideoError) -> Rejection:
    return Rejection(video.video_id, printable_uri(video.uri), unit.unit_id, error.stage, error.reason, error.detail)
