"""A checkpoint's files and their checksums, so that a damaged one is told before anything goes on from it."""

import hashlib
from pathlib import Path
from typing import Any

from animatediff import storage
from animatediff.errors import UserError
from animatediff.storage import checked_json

CHECKSUMS_FILE = "files.json"
"""In a checkpoint's folder, written last: size and SHA-256 of each of its files."""


class DamagedCheckpointError(UserError):
    """A checkpoint is not what was written; an older one may be."""


def write_checksums(folder: Path) -> None:
    """Write `CHECKSUMS_FILE` into a checkpoint's folder.

    They are read once for it, at the speed of SHA-256: 2 GB/s where the processor has instructions for it.
    """
    files = {path.name: _size_and_sha256(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS_FILE).write_bytes(checked_json.dump(files, indent=2))


def verify_checksums(folder: Path) -> None:
    """Compare a checkpoint's files with their checksums. One without, from before there were any, passes.

    Raises:
        DamagedCheckpointError: a file is missing, or has other bytes than were written.
    """
    for name, entry in _read_checksums(str(folder)).items():
        path = folder / name
        if not path.exists():
            raise DamagedCheckpointError(f"{path} is missing")
        if _size_and_sha256(path) != entry:
            raise DamagedCheckpointError(f"{path} has other bytes than were written")


def find_damage(uri: str) -> str | None:
    """Return what a look at a checkpoint's folder, at any URI, finds wrong: missing files and sizes; None if nothing.

    Raises:
        UserError: the storage cannot be reached.
    """
    sizes = storage.list_sizes(uri)
    if not sizes:
        return "its folder is missing or empty"
    try:
        recorded = _read_checksums(uri) if CHECKSUMS_FILE in sizes else {}
    except DamagedCheckpointError as error:
        return str(error)
    for name, entry in recorded.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != entry["num_bytes"]:
            return f"{name} has {sizes[name]} bytes, {entry['num_bytes']} were written"
    empty = [name for name, size in sorted(sizes.items()) if size == 0]
    return f"{empty[0]} is empty" if empty else None


def _read_checksums(uri: str) -> dict[str, Any]:
    try:
        content = storage.read_bytes(storage.join(uri, CHECKSUMS_FILE))
    except FileNotFoundError:
        return {}
    try:
        return checked_json.load(content, CHECKSUMS_FILE, remedy="an older checkpoint may be whole")
    except UserError as error:
        raise DamagedCheckpointError(str(error)) from error


def _size_and_sha256(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
