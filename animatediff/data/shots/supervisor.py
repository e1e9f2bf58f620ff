"""Scanning in a child process, which opens the file by itself: the parent never holds more than the result."""

from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.shot import ScannedVideo
from animatediff.data.supervision.supervisor import Supervisor


class ShotSupervisor(Supervisor):
    """Cuts long videos into shots in a child process; see `Supervisor`.

    Args:
        config: how shots are found and cut.
        limits: of one video.
    """

    def __init__(self, config: ShotConfig, limits: ScanLimits) -> None:
        super().__init__("animatediff.data.shots.child", limits, config)

    def scan(self, uri: str, *, trusted: bool = False) -> ScannedVideo:
        """Return a video's shots; see `scan.scan_video`.

        Args:
            uri: as `read_source` yields it: a file, a member of a tar, or a cell of a Parquet file.
            trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.

        Raises:
            VideoError: the video cannot be had, or not be used. If the process died or hung, that has happened
                `ATTEMPTS` or `HANG_ATTEMPTS` times.
            UserError: the process cannot be started, for example because the detector is not installed.
        """
        scanned: ScannedVideo = self._ask(uri, trusted)
        return scanned
