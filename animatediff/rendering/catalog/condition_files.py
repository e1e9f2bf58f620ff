"""The pictures and videos that settings name: where they are, and what digests tell of them, which is their content."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from animatediff.config import Config

_FILE_FIELDS = ("init_image", "init_video")


def condition_files(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URIs of the files that settings name.

    Args:
        settings: fields of `RenderSettings`.
    """
    yield from (settings[name] for name in _FILE_FIELDS if settings[name] is not None)


def settings_by_content(settings: Mapping[str, Any], content: Callable[[str], str]) -> dict[str, Any]:
    """Return settings as JSON can say them, with hashes in the place of the files' URIs.

    Args:
        settings: some fields of `RenderSettings`.
        content: the SHA-256 of what lies at a URI.
    """
    plain = {name: value.model_dump() if isinstance(value, Config) else value for name, value in settings.items()}
    files = {name: content(uri) for name in _FILE_FIELDS if (uri := settings.get(name)) is not None}
    return plain | files
