"""Pictures that a catalog names one by one, or as a folder of them."""

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from animatediff import storage
from animatediff.errors import UserError
from animatediff.uris import printable_uri

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""Of the files of a folder that are taken for pictures."""


def picture_uris(named: Sequence[str]) -> list[str]:
    """Return the pictures that are named: themselves, or those in the one folder that is, in the order of their names.

    Numbers in names count as numbers, so that `frame10` comes after `frame9`.

    Raises:
        UserError: the folder has no pictures, or the storage cannot be reached.
    """
    if len(named) != 1 or named[0].lower().endswith(SUFFIXES):
        return list(named)
    (uri,) = named
    names = storage.list_files(uri)
    is_file = names == [posixpath.basename(uri.rstrip("/"))]  # without a suffix
    if is_file or not (names or is_local_folder(uri)):
        return [uri]
    pictures = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not pictures:
        formats = ", ".join(SUFFIXES)
        raise UserError(
            f"there are no pictures in the folder {printable_uri(uri)}: put some directly into it ({formats})"
        )
    return [storage.join(uri, name) for name in sorted(pictures, key=_natural)]


def is_local_folder(uri: str) -> bool:
    """Whether there is a folder at a URI, as far as that can be told without asking a server."""
    return storage.is_local(uri) and Path(storage.filesystem(uri)[1]).is_dir()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
