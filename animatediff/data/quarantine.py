"""Quarantine: every video that cannot be used is a row with a stage and a reason from a closed list.

Such a video is rejected, by the plan or by a worker, with a `Rejection`; the dataset's quarantine has its row; the log
calls it set aside.
"""

from dataclasses import dataclass
from enum import StrEnum

from animatediff.uris import printable_text


class Reason(StrEnum):
    """Why a video was rejected."""

    BAD_ID = "bad_id"
    """The source's id is empty, or a path that leads out of the videos' folder."""
    DUPLICATE_ID = "duplicate_id"
    """The source has an earlier video with this id."""
    NO_CAPTION = "no_caption"
    """No sidecar text file, or an empty caption."""
    BAD_CAPTION = "bad_caption"
    """A caption that cannot be read: in an unknown encoding, broken JSON, or no text."""
    BAD_ROW = "bad_row"
    """A table's row that cannot be read: a broken line, or more cells than the table has columns."""
    NOT_FOUND = "not_found"
    """Nothing at the URI (dead links are the normal case for WebVid)."""
    FETCH_REFUSED = "fetch_refused"
    """The server refuses this file, for example with HTTP 403: asking again does not help."""
    FETCH_ERROR = "fetch_error"
    """The storage failed three times."""
    EMPTY = "empty"
    """A file of zero bytes."""
    NOT_VIDEO = "not_video"
    """No decoder recognises the file's format."""
    NO_STREAM = "no_stream"
    """A media file without a video stream."""
    CODEC_UNSUPPORTED = "codec_unsupported"
    """A video stream that no installed decoder knows."""
    COLOUR_UNSUPPORTED = "colour_unsupported"
    """Colours that no decoder shows right: Dolby Vision of profile 5, ICtCp."""
    SIZE_CHANGES = "size_changes"
    """The picture's size changes where the file does not tell it, within a clip."""
    BAD_TIMESTAMPS = "bad_timestamps"
    """Timestamps that are no camera's: fewer than 0.1 or more than 1000 frames a second, or over a month."""
    TRUNCATED = "truncated"
    """The file ends before the frames that its header promises."""
    DECODE_ERROR = "decode_error"
    """A decoder failed on the frames."""
    DECODER_CRASH = "decoder_crash"
    """The process that decoded it died, three times."""
    DECODER_HANG = "decoder_hang"
    """Decoding took longer than its deadline."""
    OUT_OF_MEMORY = "out_of_memory"
    """Decoding took more memory than its limit."""
    TOO_LARGE = "too_large"
    """More bytes, or more pixels a frame, than the config allows."""
    TOO_SHORT = "too_short"
    """Shorter than one clip."""
    NAN_LATENT = "nan_latent"
    """The VAE gave latents that are not finite in 16 bits."""


class VideoError(Exception):
    """A video that cannot be used.

    Args:
        stage: fetch, probe or decode.
        reason: from the closed list.
        detail: one line for a person.
    """

    def __init__(self, stage: str, reason: Reason, detail: str) -> None:
        detail = printable_text(detail)
        super().__init__(stage, reason, detail)
        self.stage, self.reason, self.detail = stage, reason, detail


@dataclass(frozen=True)
class Rejection:
    """One quarantined video."""

    video_id: str
    uri: str
    unit_id: str
    """The unit it was planned in; empty when it was rejected while planning."""
    stage: str
    """plan, fetch, probe, decode or encode."""
    reason: Reason
    detail: str
    attempts: int = 1
    bytes: int | None = None
    src_sha256: str | None = None
