"""The files of rendered clips: their frames, their hashes, and whether they still are what was written."""

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from animatediff import storage
from animatediff.data.decoding.decoders import load_decoders
from animatediff.data.decoding.frames import FrameSelection
from animatediff.data.decoding.frames import read_frames as decode_frames
from animatediff.data.decoding.videos import probe
from animatediff.errors import UserError
from animatediff.rendering.results.result import Result
from animatediff.storage.errors import unreachable

CLIP_DECODERS = ("decord", "pyav")
"""What rendered clips are read with to be scored, the first that can."""
_decoders = cache(load_decoders)


def read_frames(output_uri: str, result: Result) -> np.ndarray:
    """Return all frames of a rendered clip, (f h w 3) uint8 RGB, from its MP4.

    Args:
        output_uri: folder that the animate job wrote to.
        result: the clip's.

    Raises:
        UserError: it was not written as MP4.
        VideoError: the file cannot be decoded.
    """
    if "mp4" not in result.files:
        raise UserError("it was not written as MP4: render it again with mp4 among the formats")
    data = storage.read_bytes(storage.join(output_uri, result.files["mp4"]))
    info = probe(data)
    selection = FrameSelection(np.arange(len(info.pts)), result.output_height, result.output_width)
    return decode_frames(data, info, selection, _decoders(CLIP_DECODERS))[0]


def combined_hash(hashes: Sequence[str]) -> str:
    """Return the hash of a file, or that of several files' hashes."""
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def first_damaged(output_uri: str, result: Result) -> str | None:
    """Read a clip's files, and return the path of the first that is gone or has other bytes than were written.

    Raises:
        UserError: the storage cannot be reached or refuses access.
    """
    for kind, path in result.files.items():
        try:
            hashes = [_sha256(uri) for uri in _uris(output_uri, kind, path)]
        except FileNotFoundError:
            return path
        if kind in result.sha256 and (not hashes or combined_hash(hashes) != result.sha256[kind]):
            return path
    return None


def _uris(output_uri: str, kind: str, path: str) -> list[str]:
    uri = storage.join(output_uri, path)
    return [storage.join(uri, name) for name in storage.list_files(uri)] if kind == "png" else [uri]


def _sha256(uri: str) -> str:
    fs, path = storage.filesystem(uri)
    try:
        with fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise unreachable(uri, error) from error
