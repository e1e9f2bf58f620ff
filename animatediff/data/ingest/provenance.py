"""What a dataset is made with and from: its settings, and the count of the source's files that are no videos.

Both lie beside the plan's segments.
"""

import hashlib
import json
from typing import Any

from animatediff import storage
from animatediff.config import differing_fields
from animatediff.data.ingest.plan import PLAN_FOLDER
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts
from animatediff.errors import UsageError, UserError

_SETTINGS_FILE = "settings.json"
_NOT_TAKEN_FILE = "not_taken.json"


def dataset_key(settings: dict[str, Any]) -> str:
    """Return a hash of everything that decides a clip's latents."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_settings(dataset_uri: str, settings: dict[str, Any]) -> bool:
    """Whether the dataset has a plan already; it must have been made with the same settings.

    Raises:
        UsageError: it was made with others; the message says which.
    """
    recorded = read_settings(dataset_uri)
    if not recorded:
        return False
    differing = differing_fields(recorded, settings)
    if differing:
        raise UsageError(
            f"the dataset {dataset_uri} was made with other settings ({'; '.join(differing)}): "
            "its clips cannot be mixed, so choose another output_uri"
        )
    return True


def read_settings(dataset_uri: str) -> dict[str, Any]:
    """Return the settings that a plan was begun with; empty where there is none.

    Raises:
        UserError: they are damaged, or the storage cannot be reached.
    """
    uri = _settings_uri(dataset_uri)
    try:
        return dict(json.loads(storage.read_bytes(uri)))
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{uri}, which says how the dataset was made, is damaged: restore it ({error})") from error


def write_settings(dataset_uri: str, settings: dict[str, Any]) -> None:
    """Begin a plan, before its first segment."""
    content = json.dumps(settings, sort_keys=True, indent=2) + "\n"
    storage.write_bytes(_settings_uri(dataset_uri), content.encode())


def write_not_taken(dataset_uri: str, not_taken: NonVideoFileCounts) -> None:
    """Keep the count of the source's files that are no videos, as the newest planning has found them."""
    if not_taken == read_not_taken(dataset_uri):
        return
    content = json.dumps(dict(sorted(not_taken.items())), indent=2) + "\n"
    storage.write_bytes(storage.join(dataset_uri, PLAN_FOLDER, _NOT_TAKEN_FILE), content.encode())


def read_not_taken(dataset_uri: str) -> NonVideoFileCounts:
    """Return the count that `write_not_taken` kept.

    Empty where an older version has planned, or where it is damaged.
    """
    try:
        return NonVideoFileCounts(
            json.loads(storage.read_bytes(storage.join(dataset_uri, PLAN_FOLDER, _NOT_TAKEN_FILE)))
        )
    except FileNotFoundError:
        return NonVideoFileCounts()
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        return NonVideoFileCounts()  # the next planning writes it


def _settings_uri(dataset_uri: str) -> str:
    return storage.join(dataset_uri, PLAN_FOLDER, _SETTINGS_FILE)
