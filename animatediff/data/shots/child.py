"""The process that scans: `python -m animatediff.data.shots.child FD`, as `ShotSupervisor` starts it."""

import io

from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.detectors import load_detector
from animatediff.data.shots.scan import scan_video
from animatediff.data.shots.shot import ScannedVideo
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.data.supervision.serving import OnBusy, Work, run_child

_BYTES_PER_S = 4_000_000
"""The slowest storage that is waited for: a gigabyte has four minutes."""


def _prepare(limits: ScanLimits, config: ShotConfig) -> Work:
    load_detector(config.detector)

    def scan(on_busy: OnBusy, uri: str, trusted: bool) -> ScannedVideo:
        with open_video_file(uri, trusted=trusted) as file:
            reading_s = file.seek(0, io.SEEK_END) / _BYTES_PER_S
            on_busy("the header's reading", reading_s)

            def on_header(info: VideoInfo) -> None:
                # The file is read again to decode it.
                on_busy("the scan", 2 * reading_s + info.decoding_s)

            return scan_video(file, config, max_pixels=limits.max_pixels, on_header=on_header)

    return scan


if __name__ == "__main__":
    run_child(_prepare)
