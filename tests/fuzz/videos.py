"""Videos, as ingest has them decoded: by the supervised child, with its deadline and its limit on memory."""

import random
from functools import cache
from pathlib import Path

from animatediff.data.clips.config import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig, DecodeSupervisor
from animatediff.data.quarantine import VideoError
from animatediff.errors import UserError
from tests.fuzz.harness import Subject, mib_of
from tests.fuzz.mutations import mutate_bytes
from tests.support import audio_only, encode, gradient_frames

_CLIPS = ClipConfig(num_frames=4, stride=1, height=32, width=32)
_DECODE = DecodeConfig(timeout_s=5, memory_mb=512)
_CODECS = (
    *(("libx264", "mp4"), ("libx264", "matroska"), ("libx264", "mpegts"), ("libx264", "flv"), ("libx265", "mp4")),
    *(("mpeg4", "avi"), ("mpeg4", "mov"), ("mpeg2video", "mpeg"), ("libvpx", "webm"), ("libvpx-vp9", "webm")),
    *(("ffv1", "matroska"), ("flv", "flv"), ("msmpeg4", "asf")),
)


@cache
def _seeds() -> list[bytes]:
    frames = gradient_frames(10, 48, 64)
    quiet = {"libx265": {"x265-params": "log-level=none"}}
    found = [
        encode(frames, codec=codec, container=container, gop=4, options=quiet.get(codec))
        for codec, container in _CODECS
    ]
    late = [0, 40, 80, 5000, 5040, 5080, 5120, 9000, 9040, 9080]
    return [*found, encode(frames, codec="libx264", pts=late), audio_only()]


@cache
def _decoding() -> DecodeSupervisor:
    return DecodeSupervisor(_DECODE, _CLIPS)


def _run(rng: random.Random, _folder: Path) -> str:
    data = mutate_bytes(rng, rng.choice(_seeds()), _seeds())
    try:
        return "decoded" if _decoding().cut("a", data) else "FAULT: no windows"
    except VideoError as error:
        if len(str(error)) > 1000 or "\n" in str(error):
            return f"FAULT message: {error!r}"
        return f"{error.reason.value}"


def _peak_mb() -> float:
    pid = _decoding().child_pid
    status = Path(f"/proc/{pid}/status")
    return max(0.0, mib_of(status, "VmHWM") - _resting(status)) if pid else 0.0


@cache
def _resting(status: Path) -> float:
    """Of a fresh child: its libraries."""
    return mib_of(status, "VmRSS")


def warm() -> None:
    """Make what all cases share before the processes part."""
    _seeds()


VIDEOS = Subject("videos", _run, deadline_s=30, memory_mb=600, errors=(VideoError, UserError), peak_mb=_peak_mb)
