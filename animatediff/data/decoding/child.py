"""The process that decodes: `python -m animatediff.data.decoding.child FD`, started by `supervisor.DecodeSupervisor`.

It reads requests from the socket FD and writes (kind, value) answers, until the socket's other end is closed:
`started` once, and for each video `decoding` before each decoder that is tried, with its name and the seconds that the
video's length adds to the deadline; then `clips`, or `error` with the exception.
"""

import os
import pickle
import resource
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding.cut import cut_clips
from animatediff.data.decoding.decoders import Decoder, load_decoders
from animatediff.data.decoding.frames import is_memory_error
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.decoding.videos import VideoInfo, reproducible_reason
from animatediff.data.quarantine import Reason, VideoError
from animatediff.errors import UserError

# The parent kills at the deadline; this is for where it cannot.
_GRACE_S = 5.0
_STATM = Path("/proc/self/statm")


def main(fd: int) -> None:
    """Serve requests until the parent closes its end or is gone."""
    connection = Connection(fd)
    try:
        decode, clips = pickle.loads(connection.recv_bytes())
        try:
            decoders = load_decoders(decode.decoders)
        except UserError as error:
            _send(connection, "error", error)
            return
        _send(connection, "started", None)
        server = _Server(connection, decode, clips, decoders)
        while True:
            server.serve(*pickle.loads(connection.recv_bytes()))
    except (EOFError, ConnectionError):  # the parent is gone
        return


def _send(connection: Connection, kind: str, value: Any) -> None:
    connection.send_bytes(pickle.dumps((kind, value), protocol=5))


@dataclass(frozen=True)
class _Server:
    """Answers a request, a video's id, bytes and crop, by its clips or by why there are none."""

    connection: Connection
    decode: DecodeConfig
    clips: ClipConfig
    decoders: list[Decoder]

    def serve(self, video_id: str, data: bytes, crop: CropBox | None) -> None:
        start, decode = time.monotonic(), self.decode

        def on_decode(name: str, info: VideoInfo) -> None:
            extra_s = _extra_s(info)
            _set_alarm(start + decode.timeout_s + extra_s)
            _send(self.connection, "decoding", (name, extra_s))

        _set_alarm(start + decode.timeout_s)
        _limit_memory(decode.memory_mb)
        answer: tuple[str, Any]
        try:
            found = cut_clips(
                video_id, data, self.clips, self.decoders, crop=crop, max_pixels=decode.max_pixels, on_decode=on_decode
            )
            answer = "clips", found
        except VideoError as error:
            answer = "error", error
        except ConnectionError:
            raise
        except Exception as error:  # whatever a strange file leads to, the next one is served
            reason = Reason.OUT_OF_MEMORY if is_memory_error(error) else Reason.DECODE_ERROR
            answer = "error", VideoError("decode", reason, f"{type(error).__name__}: {reproducible_reason(error)}")
        _limit_memory(None)
        _send(self.connection, *answer)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _extra_s(info: VideoInfo) -> float:
    """Twice the video's length: but headers claim years, and decoding goes by frames."""
    return 2 * min(info.duration_s, float(len(info.pts)))


def _set_alarm(deadline: float) -> None:
    """Let the kernel end this process a little after `deadline`, even while native code holds the interpreter."""
    signal.setitimer(signal.ITIMER_REAL, max(0.0, deadline - time.monotonic()) + _GRACE_S)


def _limit_memory(memory_mb: int | None) -> None:
    """Let allocations fail that take more than `memory_mb` beyond the present size; None lifts the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = most
    if memory_mb is not None and _STATM.exists():
        pages = int(_STATM.read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_mb * 2**20
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


if __name__ == "__main__":
    # The parent's thread may block the signal or ignore it.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    main(int(sys.argv[1]))
    # Without the libraries' clean-up, which may hang.
    os._exit(0)
