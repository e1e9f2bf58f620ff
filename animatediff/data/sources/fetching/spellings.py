"""Names of files whose accents are composed otherwise than a table says."""

import os
import unicodedata
from collections.abc import Callable
from typing import BinaryIO, Literal

from animatediff.data.sources.fetching.local import open_regular

_FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")


def open_local(path: str) -> BinaryIO:
    """Open a regular file, whatever form its name's accents have.

    Raises:
        OSError: see `local.open_regular`.
    """
    try:
        return open_regular(path)
    except FileNotFoundError:
        return open_regular(other_spelling(path, os.path.exists))


def other_spelling(path: str, exists: Callable[[str], bool]) -> str:
    """Return the path of a file whose name has its accents composed otherwise: macOS parts them, tables mostly do not.

    Raises:
        FileNotFoundError: there is none either.
    """
    parts = path.split("/")
    # The folder may be spelled as it is there, and what the table says beneath it not.
    for first in [index for index, part in enumerate(parts) if not part.isascii()]:
        for form in _FORMS:
            other = "/".join([*parts[:first], *(unicodedata.normalize(form, part) for part in parts[first:])])
            if other != path and exists(other):
                return other
    raise FileNotFoundError(path)
