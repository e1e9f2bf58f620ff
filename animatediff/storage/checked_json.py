"""JSON files that know their own checksum, so that damage at rest is told and never taken for what was written."""

import hashlib
import json
from typing import Any

from animatediff.errors import UserError

_KEY = "sha256_of_the_rest"


def dump(fields: dict[str, Any], *, indent: int | None = None) -> bytes:
    """Return JSON of `fields` with their checksum.

    Args:
        fields: plain values by name.
        indent: spaces of each level; None writes one line.
    """
    content = fields | {_KEY: _checksum(fields)}
    return json.dumps(content, indent=indent, ensure_ascii=False).encode() + b"\n"


def load(content: bytes, uri: str, *, remedy: str) -> dict[str, Any]:
    """Read what `dump` wrote, or an object that was written without a checksum.

    Args:
        content: the file.
        uri: its name, for messages.
        remedy: what its user can do when it is damaged, in the imperative.

    Raises:
        UserError: it is no JSON object, or it was changed since.
    """
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{uri} is damaged, it is no JSON: {remedy}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{uri} is damaged, it is no JSON object: {remedy}")
    checksum = fields.pop(_KEY, None)
    if checksum is not None and checksum != _checksum(fields):
        raise UserError(f"{uri} was changed or damaged since it was written, its checksum differs: {remedy}")
    return fields


def _checksum(fields: dict[str, Any]) -> str:
    # Of the values and not of the bytes: a formatter may have been at it, which changes nothing.
    plain = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()
