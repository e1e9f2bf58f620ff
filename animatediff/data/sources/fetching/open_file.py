"""A stand-in until the opening of files of all kinds is merged."""

from pathlib import Path
from typing import BinaryIO

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.local import local_path


def open_video_file(uri: str, *, trusted: bool = False) -> BinaryIO:
    """Open a local file."""
    try:
        return Path(local_path(uri) or uri).open("rb")
    except FileNotFoundError as error:
        raise VideoError("fetch", Reason.NOT_FOUND, f"{uri} is not there") from error
