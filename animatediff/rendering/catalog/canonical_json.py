"""One JSON text for equal values, and its SHA-256: what digests of items are made of."""

import hashlib
import json
from typing import Any

canonical_json = json.JSONEncoder(sort_keys=True).encode
"""JSON text that is the same for equal values; `json.dumps` would make an encoder for each."""


def sha256(values: dict[str, Any]) -> str:
    """Return the hash of values that JSON can say, in whatever order they come."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()
