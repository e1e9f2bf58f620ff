"""The members of a tar, one after the other, whatever its headers claim."""

import tarfile
from collections.abc import Iterator
from typing import Any

from animatediff.data.sources.collections.sidecars import is_sidecar
from animatediff.data.sources.limits import MAX_HEADER_BYTES, MAX_SIDECAR_BYTES

NONSENSE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, IndexError, KeyError)
"""What tarfile raises where a header says nonsense."""

_MAX_MEMBERS = 2_000_000
_SHOWN_CHARS = 100


class _Headers:
    """A tar of which little is read at a time: sizes in it are claims, and memory is taken for what they claim.

    Args:
        file: the tar.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.left = MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        """As the file's.

        Raises:
            tarfile.ReadError: it is more than headers have.
        """
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        self.left -= size
        return bytes(self._file.read(size))


def read_members(file: Any, size: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the members of a tar, with the content of those that may be captions.

    Raises:
        tarfile.TarError: a header is damaged, or the tar ends inside a member.
        Exception: likewise, one of `NONSENSE`.
    """
    headers = _Headers(file)
    with tarfile.open(fileobj=headers, mode="r:", errors="replace") as tar:  # type: ignore[call-overload]
        number, before = 0, -1
        while (member := tar.next()) is not None:
            tar.members.clear()  # else every header stays in memory
            number += 1
            # The holes of a sparse member count in its size, and take no place.
            if (member.offset_data + member.size if is_plain(member) else tar.offset) > size:
                raise tarfile.ReadError(f"it ends inside {member.name[:_SHOWN_CHARS]}")
            if member.size < 0 or tar.offset <= before:
                raise tarfile.ReadError(f"the size of {member.name[:_SHOWN_CHARS]} leads back")
            if number > _MAX_MEMBERS:
                raise tarfile.ReadError(f"it has more than {_MAX_MEMBERS} members")
            before, headers.left = tar.offset, MAX_HEADER_BYTES
            is_caption = is_plain(member) and is_sidecar(member.name) and member.size <= MAX_SIDECAR_BYTES
            content = b""
            if is_caption:
                file.seek(member.offset_data)
                content = file.read(member.size)
            yield member, content
        # tarfile takes a damaged header for the end.
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged")


def is_plain(member: tarfile.TarInfo) -> bool:
    """Whether its bytes stand in the tar one after the other."""
    return member.isreg() and not member.issparse()
