"""Selected shots out of their sources: one file stays open for the shots that follow one another in it."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

from animatediff.data.clips.crop_box import CropBox
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.shots.copies import copy_shot
from animatediff.data.sources.fetching.open_file import open_video_file
from animatediff.errors import UserError

_GONE = (Reason.FETCH_ERROR, Reason.NOT_FOUND, Reason.FETCH_REFUSED)


class SourceCopies:
    """Copies shots out of their sources; a context manager that closes what is open.

    Args:
        trusted: whether rows may point anywhere, as `SourceConfig.trusted` says.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted
        self._open: tuple[str, BinaryIO] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close()

    def copy(self, shot: Mapping[str, Any]) -> bytes:
        """Return a shot's own video file, its packets as the source has them.

        Args:
            shot: a row of the shot table, with `uri` as it is read from.

        Raises:
            VideoError: it cannot be cut out of its source.
            UserError: the source cannot be read any more.
        """
        try:
            times = {name: shot[name] for name in ("start_pts", "last_pts", "num_frames")}
            return copy_shot(self._file(shot["uri"]), **times)
        except VideoError as error:
            self._close()
            if error.reason in _GONE:
                raise UserError(f"a source of shots cannot be read any more, restore it: {error.detail}") from error
            raise

    def _file(self, uri: str) -> BinaryIO:
        if self._open is None or self._open[0] != uri:
            self._close()
            self._open = uri, open_video_file(uri, trusted=self._trusted)
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def crop_of(shot: Mapping[str, Any]) -> CropBox | None:
    """Return what a row of the shot table says is left without bars; None for the whole picture."""
    if shot["crop_w"] is None:
        return None
    return CropBox(shot["crop_x"], shot["crop_y"], shot["crop_w"], shot["crop_h"])
