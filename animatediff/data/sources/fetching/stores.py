"""Files in a store that fsspec opens: their size, and parts of them by range."""

from typing import Any, NamedTuple

from fsspec.asyn import AsyncFileSystem, sync

from animatediff import storage
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.spellings import other_spelling
from animatediff.uris import printable_uri

_TOTAL_S = 600
"""For one video from a store, as `http` has it."""


class StoredFile(NamedTuple):
    """A file in a store."""

    uri: str
    fs: Any
    """The file system that has it."""
    path: str
    """In the file system."""

    def size(self) -> int:
        """Return its size in bytes, as it is now.

        Raises:
            VideoError: it is a pipe, a device or a socket.
        """
        self.fs.invalidate_cache(self.path)  # a size that was listed long ago may be another file's
        info = self.fs.info(self.path)
        if info["type"] == "other":
            raise VideoError("fetch", Reason.FETCH_REFUSED, f"{printable_uri(self.uri)} is no regular file")
        return int(info["size"])

    def read(self, start: int, end: int) -> bytes:
        """Return its bytes from `start` up to `end`; a store that trickles is an error."""
        if isinstance(self.fs, AsyncFileSystem):
            return bytes(sync(self.fs.loop, self.fs._cat_file, self.path, start=start, end=end, timeout=_TOTAL_S))
        return bytes(self.fs.cat_file(self.path, start=start, end=end))


def find_stored(uri: str) -> tuple[StoredFile, int]:
    """Return a file in a store and its size in bytes, whatever form its name's accents have.

    Raises:
        FileNotFoundError: there is none.
        VideoError: it is no regular file.
        Exception: whatever else the storage raises.
    """
    file = stored_file(uri)
    try:
        return file, file.size()
    except FileNotFoundError:
        file = file._replace(path=other_spelling(file.path, file.fs.exists))
        return file, file.size()


def stored_file(uri: str) -> StoredFile:
    """Return the file at `uri`, which is not looked at."""
    return StoredFile(uri, *storage.filesystem(uri, may_wait=False))
