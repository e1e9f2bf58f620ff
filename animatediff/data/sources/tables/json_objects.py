"""JSON objects that others wrote: what is none, is nested without end, or says a thing twice, is told."""

import json
from typing import Any


class _Repeating(dict[str, Any]):
    """An object of which keys stand there more than once."""

    keys_twice: frozenset[str] = frozenset()


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: it is none; the message goes on after "it is no JSON".
    """
    try:
        return json.loads(text, object_pairs_hook=_of_pairs)
    except RecursionError as error:
        raise ValueError("it is nested without end") from error


def require_once(values: dict[str, Any], key: str | None) -> None:
    """Make sure that a key has one value.

    Raises:
        ValueError: it has two; the message goes on after "it".
    """
    if isinstance(values, _Repeating) and key in values.keys_twice:
        raise ValueError(f"has the key {key!r} twice")


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    repeating = _Repeating(values)
    repeating.keys_twice = frozenset(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return repeating
