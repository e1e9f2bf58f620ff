"""Decoding in a child process: decoders crash, hang and take all memory, and nothing else may suffer from it."""

from pydantic import Field, field_validator

from animatediff.config import Config
from animatediff.data.clips.config import ClipConfig
from animatediff.data.clips.crop_box import CropBox
from animatediff.data.decoding import decoders
from animatediff.data.decoding.cut import DecodedClip
from animatediff.data.sources.limits import MAX_PIXELS
from animatediff.data.supervision.supervisor import Supervisor


class DecodeConfig(Config):
    """How videos are decoded. Of these, only `decoders` may decide a pixel of a clip."""

    decoders: tuple[str, ...] = ("pyav_direct", "decord")
    """Tried in order for each video: files of `decoding/decoders/`, as pyav_direct, decord and torchcodec_cuda, or a
    class of your own as package.module:ClassName. A dataset that is there goes on with those that it was begun with."""
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


class DecodeSupervisor(Supervisor):
    """Cuts videos in a child process; see `Supervisor`.

    Args:
        decode: decoders and limits.
        clips: how to cut.
    """

    def __init__(self, decode: DecodeConfig, clips: ClipConfig) -> None:
        super().__init__("animatediff.data.decoding.child", decode, clips)

    def cut(self, video_id: str, data: bytes, crop: CropBox | None = None) -> list[DecodedClip]:
        """Cut a video into clips; see `cut.cut_clips`.

        Raises:
            VideoError: the video cannot be used. If the process died or hung, that has happened `ATTEMPTS` or
                `HANG_ATTEMPTS` times.
            UserError: the process cannot be started, for example because a decoder is not installed.
        """
        clips: list[DecodedClip] = self._ask(video_id, data, crop)
        return clips
