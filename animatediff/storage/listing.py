"""What lies in a folder: names, sizes, times."""

import math
import posixpath
from datetime import datetime
from typing import Any

from animatediff.storage.errors import is_absence, printable_error, unreachable
from animatediff.storage.filesystems import filesystem


def list_files(uri: str) -> list[str]:
    """Return the names (not URIs) of the files directly in a folder, sorted; an absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    names = (posixpath.basename(entry["name"].rstrip("/")) for entry in _entries(uri) if entry["type"] == "file")
    return sorted(name for name in names if name and not name.endswith(".tmp"))


def list_times(uri: str) -> dict[str, float]:
    """Return the names of the files and folders directly in a folder, each with the time of its last change.

    Returns:
        Seconds since 1970; infinite where the storage does not say. An absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    return {posixpath.basename(entry["name"].rstrip("/")): _changed(entry) for entry in _entries(uri)}


def list_sizes(uri: str) -> dict[str, int | None]:
    """Return the names of the files and folders directly in a folder, each with its size in bytes; None of a folder.

    An absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    entries = ((posixpath.basename(entry["name"].rstrip("/")), entry) for entry in _entries(uri))
    return {name: int(entry["size"]) if entry["type"] == "file" else None for name, entry in entries}


def list_names(uri: str) -> set[str]:
    """Return the names of the files and folders directly in a folder; an absent one is empty.

    It takes less memory than `list_times`.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    return {posixpath.basename(name.rstrip("/")) for name in _entries(uri, detail=False)}


def find_files(uri: str) -> list[str]:
    """Return the paths, relative to the folder `uri`, of all files below it, sorted; an absent folder is empty.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    fs, path = filesystem(uri)
    try:
        found = fs.find(path)
    except Exception as error:
        if is_absence(error):
            return []
        raise unreachable(uri, error) from printable_error(error)
    return sorted(posixpath.relpath(name, path) for name in found)


def _changed(entry: dict[str, Any]) -> float:
    found = (entry.get(name) for name in ("mtime", "LastModified", "updated"))
    time: Any = next((value for value in found if value is not None), math.inf)
    if isinstance(time, str):  # Google's
        time = datetime.fromisoformat(time)
    return time.timestamp() if isinstance(time, datetime) else float(time)


def _entries(uri: str, *, detail: bool = True) -> list[Any]:
    fs, path = filesystem(uri)
    try:
        # Object stores cache listings; another worker may have written since.
        fs.invalidate_cache(path)
        return list(fs.ls(path, detail=detail))
    except Exception as error:
        if is_absence(error):
            return []
        raise unreachable(uri, error) from printable_error(error)
