"""Parts of captioning: the answers to a batch of shots, committed once, so that no shot that has one is asked again.

They lie in generations: one for each time that captions are asked for anew.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from animatediff import storage
from animatediff.config import differing_fields
from animatediff.data import shards
from animatediff.errors import UsageError, UserError

Recaption = Literal["no", "failed", "all"]
"""Which shots of a collection that has captions already are asked for again."""

FOLDER = "captions"
"""Below the collection's own folder."""
_SETTINGS_FILE = "settings.json"
_SCHEMA = pa.schema(
    [
        ("shot_id", pa.string()),
        ("caption", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("caption_model", pa.string()),
        ("reason", pa.string()),  # why there is no caption that can be used; empty where there is one
    ]
)


@dataclass(frozen=True)
class ShotCaption:
    """What a shot was answered with."""

    shot_id: str
    caption: str
    tags: tuple[str, ...]
    caption_model: str
    reason: str
    """Why the answer cannot be used; empty where it can be."""


def find_generation(
    collection_uri: str, settings: dict[str, Any], sealed_generation: int | None, recaption: Recaption
) -> int:
    """Return the generation that answers are to be added to.

    A generation that was begun with the same settings and is not sealed yet is continued.

    Args:
        collection_uri: the collection's folder.
        settings: what decides the captions.
        sealed_generation: that of the sealed shards, if there are any.
        recaption: which shots are to be asked for again.

    Raises:
        UsageError: the captions that are there were made with other settings.
        UserError: the storage cannot be reached.
    """
    newest = _newest(collection_uri)
    if newest is None:
        return 0
    recorded = _read_settings(collection_uri, newest)
    is_same = recorded == settings
    if recaption != "no":
        is_begun = is_same and (sealed_generation is None or newest > sealed_generation)
        return newest if is_begun else newest + 1
    if not is_same:
        raise UsageError(
            f"the captions of {collection_uri} were made with other settings "
            f"({'; '.join(differing_fields(recorded, settings))}): set recaption to all to ask for them anew, or "
            "choose another output_uri"
        )
    return newest


def begin_generation(
    collection_uri: str, generation: int, settings: dict[str, Any], carried: Sequence[ShotCaption] = ()
) -> None:
    """Write down what the answers of a generation are made with; from then on it is there.

    Args:
        collection_uri: the collection's folder.
        generation: its number.
        settings: what decides the captions.
        carried: answers of the generation before that stay.
    """
    if carried:
        commit(collection_uri, generation, carried)
    content = json.dumps(settings, sort_keys=True, indent=2) + "\n"
    storage.write_bytes(storage.join(_folder(collection_uri, generation), _SETTINGS_FILE), content.encode())


def commit(collection_uri: str, generation: int, captions: Sequence[ShotCaption]) -> None:
    """Commit the answers to a batch of shots."""
    rows = [{name: getattr(caption, name) for name in _SCHEMA.names} for caption in captions]
    name = hashlib.sha256("\n".join(caption.shot_id for caption in captions).encode()).hexdigest()[:16]
    data = shards.to_parquet(pa.Table.from_pylist(rows, schema=_SCHEMA), {})
    storage.write_bytes(storage.join(_folder(collection_uri, generation), f"{name}.parquet"), data)


def read(collection_uri: str, generation: int) -> dict[str, ShotCaption]:
    """Return the committed answers of a generation by shot id.

    Raises:
        UserError: a part is damaged, or the storage cannot be reached.
    """
    folder = _folder(collection_uri, generation)
    names = sorted(name for name in storage.list_files(folder) if name.endswith(".parquet"))
    with ThreadPoolExecutor(storage.PARALLEL_READS) as pool:
        remedy = "delete it and run curate again, which asks for its captions anew"
        tables = pool.map(lambda name: shards.read_table(storage.join(folder, name), remedy=remedy), names)
        rows = [row for table in tables for row in table.to_pylist()]
    return {row["shot_id"]: ShotCaption(**row | {"tags": tuple(row["tags"])}) for row in rows}


def _newest(collection_uri: str) -> int | None:
    names = storage.list_names(storage.join(collection_uri, FOLDER))
    for number in sorted((int(name) for name in names if name.isdecimal()), reverse=True):
        if storage.exists(storage.join(_folder(collection_uri, number), _SETTINGS_FILE)):
            return number
    return None


def _folder(collection_uri: str, generation: int) -> str:
    return storage.join(collection_uri, FOLDER, f"{generation:03d}")


def _read_settings(collection_uri: str, generation: int) -> dict[str, Any]:
    uri = storage.join(_folder(collection_uri, generation), _SETTINGS_FILE)
    try:
        return dict(json.loads(storage.read_bytes(uri)))
    except (FileNotFoundError, ValueError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{uri}, which says how the captions were made, is missing or damaged: restore it") from error
