"""Weights at any URI, as local files that can be memory-mapped."""

import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from animatediff import storage
from animatediff.errors import UserError

CACHE = Path.home() / ".cache" / "animatediff"


def local_copy(uri: str) -> Path:
    """A local path with the content of a file or folder at `uri`, fetched once per version.

    Raises:
        UserError: there is nothing at `uri`, or the storage cannot be reached.
    """
    fs, path = storage.filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        if not Path(path).exists():
            raise UserError(f"there is no file or folder {uri}")
        return Path(path)
    if not storage.exists(uri):
        raise UserError(f"there is nothing at {uri}")
    return _fetch(uri)


def parse_json(text: str | bytes, source: str) -> dict[str, Any]:
    """A JSON object out of a stranger's file.

    Raises:
        UserError: it is none, or nested without end; the line begins with `source`.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{source} holds a {type(content).__name__}, a JSON object is needed")
    return content


def _fetch(uri: str) -> Path:
    fs, path = storage.filesystem(uri)
    # What the storage says of the files (sizes, ETags) names the copy, so a replaced file is fetched anew.
    listing = sorted((name, fs.ukey(name)) for name in fs.find(path))
    key = hashlib.sha256(repr((uri, listing)).encode()).hexdigest()[:16]
    target = CACHE / key / Path(path).name
    if not target.exists():
        partial = CACHE / f"{key}.{uuid.uuid4().hex}" / target.name
        partial.parent.mkdir(parents=True)
        fs.get(path, str(partial), recursive=fs.isdir(path))
        try:
            partial.parent.rename(target.parent)
        except OSError:  # another process was faster
            shutil.rmtree(partial.parent)
    return target
