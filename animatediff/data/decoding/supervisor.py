"""Decoding in a child process: decoders crash, hang and take all memory, and nothing else may suffer from it."""

from types import TracebackType

from pydantic import Field, field_validator

from animatediff.config import Config
from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding import decoders
from animatediff.data.decoding.cut import DecodedClip
from animatediff.data.decoding.frames import is_memory_error
from animatediff.data.decoding.process import DecodeProcess, ProcessError
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.limits import MAX_PIXELS
from animatediff.errors import UserError

ATTEMPTS = 3
"""How often a video is tried whose decoding process dies, since that may come from outside."""
HANG_ATTEMPTS = 2
"""Times that a video is tried which takes longer than its deadline."""


class DecodeConfig(Config):
    """How videos are decoded. Of these, only `decoders` may decide a pixel of a clip."""

    decoders: tuple[str, ...] = ("decord", "pyav")
    """Tried in order for each video: files of `decoding/decoders/`, as decord, pyav and torchcodec, or a class of your
    own as package.module:ClassName."""
    timeout_s: float = Field(30.0, gt=0)
    """Seconds for one video, to which twice its length is added."""
    memory_mb: int = Field(2048, ge=64)
    """What decoding one video may take; more is out_of_memory."""
    max_mb: int = Field(2000, ge=1)
    """Megabytes of a video file; a larger one is too_large."""
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Pixels of a source frame; a larger one is too_large."""
    files_per_child: int = Field(500, ge=1)
    """Videos that one process decodes before a fresh one takes over, because decoders leak."""

    @field_validator("decoders")
    @classmethod
    def _known(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        known = decoders.names()
        unknown = [name for name in named if name not in known and ":" not in name]
        if unknown or not named:
            wrong = f"there is no decoder {unknown[0]!r}" if unknown else "at least one is needed"
            raise ValueError(f"{wrong}, known are {', '.join(known)}, and classes as package.module:ClassName")
        return named


class DecodeSupervisor:
    """Cuts videos in a child process that is started when it is needed, and replaced when it fails.

    It is used from one thread, and is a context manager that ends the process.

    Args:
        decode: decoders and limits.
        clips: how to cut.
    """

    def __init__(self, decode: DecodeConfig, clips: ClipConfig) -> None:
        self._decode, self._clips = decode, clips
        self._child: DecodeProcess | None = None

    def __enter__(self) -> "DecodeSupervisor":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def child_pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._child.pid if self._child else None

    def cut(self, video_id: str, data: bytes, crop: CropBox | None = None) -> list[DecodedClip]:
        """Cut a video into clips; see `cut.cut_clips`.

        Raises:
            VideoError: the video cannot be used. If the process died or hung, that has happened `ATTEMPTS` or
                `HANG_ATTEMPTS` times.
            UserError: the process cannot be started, for example because a decoder is not installed.
        """
        failures: list[ProcessError] = []
        while len(failures) < ATTEMPTS and _num_hangs(failures) < HANG_ATTEMPTS:
            try:
                return self._cut_once(video_id, data, crop)
            except ProcessError as failure:
                failures.append(failure)
        raise _final_error(failures, self._decode) from failures[-1]

    def close(self) -> None:
        """End the child process, if there is one."""
        if self._child:
            self._child.kill()
            self._child = None

    def _cut_once(self, video_id: str, data: bytes, crop: CropBox | None) -> list[DecodedClip]:
        """Cut a video in the child; end the child unless it is ready for the next video.

        Raises:
            ProcessError: the child died or hung.
        """
        try:
            return self._ready_child().cut(video_id, data, crop, self._decode.timeout_s)
        except BaseException as error:
            # A child that has raised a `VideoError` is idle again. Otherwise an answer may still come, to the wrong
            # question, and what a lack of memory leaves behind would narrow the next attempt.
            if not isinstance(error, VideoError) or error.reason is Reason.OUT_OF_MEMORY:
                self.close()
            raise

    def _ready_child(self) -> DecodeProcess:
        if self._child and self._child.num_files >= self._decode.files_per_child:
            self.close()
        if not self._child:
            self._child = _start(self._decode, self._clips)
        return self._child


def _num_hangs(failures: list[ProcessError]) -> int:
    return sum(failure.hung for failure in failures)


def _final_error(failures: list[ProcessError], decode: DecodeConfig) -> VideoError:
    """Return why a video is not tried again whose decoding process has died or hung each time."""
    last = failures[-1]
    if _num_hangs(failures) == HANG_ATTEMPTS:
        limit = f"{decode.timeout_s:g} s and twice the video's length"
        detail = f"{last.busy_with} was not done after {limit}, {HANG_ATTEMPTS} times"
        return VideoError("decode", Reason.DECODER_HANG, detail)
    reason = Reason.OUT_OF_MEMORY if is_memory_error(last.last_line) else Reason.DECODER_CRASH
    last_line = f": {last.last_line}" if last.last_line else ""
    return VideoError("decode", reason, f"{last.busy_with} {last.how}, {ATTEMPTS} times{last_line}")


def _start(decode: DecodeConfig, clips: ClipConfig) -> DecodeProcess:
    """Return a process that has loaded its decoders.

    Raises:
        UserError: it cannot.
    """
    for attempt in range(1, ATTEMPTS + 1):
        child = DecodeProcess()
        try:
            child.start(decode, clips)
            return child
        except ProcessError as error:
            child.kill()
            if attempt == ATTEMPTS:
                raise UserError(
                    f"the decoding process does not start: it {error.how} {error.last_line}".strip()
                ) from error
        except BaseException:
            child.kill()
            raise
    raise AssertionError("the loop returns or raises")
