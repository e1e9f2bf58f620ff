"""The process that scans: `python -m animatediff.data.shots.child FD`, as `ShotSupervisor` starts it."""

import io
import time

from animatediff.data.decoding.videos import VideoInfo
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.shots.detectors import load_detector
from animatediff.data.shots.scan import scan_video
from animatediff.data.shots.shot import ScannedVideo
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.data.sources.limits import MAX_OPENING_S, SLOWEST_BYTES_PER_S
from animatediff.data.supervision.serving import OnBusy, Work, run_child


def _prepare(limits: ScanLimits, config: ShotConfig) -> Work:
    load_detector(config.detector)

    def scan(on_busy: OnBusy, uri: str, trusted: bool) -> ScannedVideo:
        began = time.monotonic()
        on_busy("the opening of the file", MAX_OPENING_S)
        with open_video_file(uri, trusted=trusted) as file:
            file.read(1)  # nothing was asked for yet of a member of a tar
            opening_s = time.monotonic() - began
            reading_s = file.seek(0, io.SEEK_END) / SLOWEST_BYTES_PER_S
            on_busy("the header's reading", opening_s + reading_s)

            def on_header(info: VideoInfo) -> None:
                # The file is read again to decode it.
                on_busy("the scan", opening_s + 2 * reading_s + info.decoding_s)

            return scan_video(file, config, max_pixels=limits.max_pixels, on_header=on_header)

    return scan


if __name__ == "__main__":
    run_child(_prepare)
