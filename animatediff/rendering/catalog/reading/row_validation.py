"""Rows of a table to validated configs, many thousands of which are alike."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from animatediff.config import Config, describe_value
from animatediff.errors import UsageError
from animatediff.rendering.catalog.canonical_json import canonical_json
from animatediff.rendering.catalog.unvalidated_copies import ConfigT, unvalidated_copy
from animatediff.uris import printable_uri

_MAX_TOLD = 20
_MAX_KEPT = 10_000


class RowValidator:
    """Validates the rows of one table; those that differ in nothing but a text share their values.

    Args:
        uri: the table's, for messages.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._problems = printable_uri(uri), list[str]()
        self._known: dict[tuple[type[Config], str], Config] = {}
        self._given: dict[frozenset[str], set[str]] = {}

    def validated(self, schema: type[ConfigT], text: str, values: Mapping[str, Any], place: str) -> ConfigT | None:
        """Return a row as a config; None where it has a problem, which is noted.

        Args:
            schema: the config's class.
            text: the name of a field that is any text and differs in most rows.
            values: the row's.
            place: the row's, for messages.

        Raises:
            UsageError: there are more problems than can be told.
        """
        key = schema, canonical_json({name: value for name, value in values.items() if name != text})
        known = self._known.get(key)
        if isinstance(known, schema) and isinstance(values.get(text), str):
            return unvalidated_copy(known, **{text: values[text]})
        try:
            config = schema.model_validate(values)
        except ValidationError as error:
            self._problems += (f"{self._uri}, {place}, {_describe(dict(item))}" for item in error.errors())
            if len(self._problems) > _MAX_TOLD:
                raise UsageError(f"{'; '.join(self._problems[:_MAX_TOLD])}; and perhaps more") from error
            return None
        if len(self._known) < _MAX_KEPT:
            self._known[key] = config
        given = self._given.setdefault(frozenset(config.model_fields_set), config.model_fields_set)
        return unvalidated_copy(config, given)

    def check(self) -> None:
        """Refuse the table if any of its rows has a problem; the line tells all of them.

        Raises:
            UsageError: rows have problems.
        """
        if self._problems:
            raise UsageError("; ".join(self._problems))


def _describe(item: dict[str, Any]) -> str:
    """Return one of pydantic's errors as a line that names the column."""
    name, *rest = map(str, item["loc"])
    path = f" ({'.'.join(rest)})" if rest else ""
    return f"column {name!r}{path}: {describe_value(item)}"
