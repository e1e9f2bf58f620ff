"""The manifest of a curated collection: which shards hold its shots. Written last, so what it lists is whole."""

from typing import Any, Literal

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config, first_problem
from animatediff.data.curation.shot_table import SCHEMA_VERSION
from animatediff.data.manifest import FILE_NAME
from animatediff.errors import UserError
from animatediff.storage import checked_json

KIND: Literal["shots"] = "shots"
"""What the manifest of a curated collection calls itself; a dataset of latents has no such field."""


class ShotShard(Config):
    """One sealed Parquet file."""

    path: str
    """Relative to the collection's folder."""
    num_shots: int
    """Rows: shots that are not selected are among them."""
    reasons: dict[str, int]
    """Shots that are not selected, by reason."""
    selected_s: float
    """Seconds of its selected shots."""
    num_bytes: int
    sha256: str


class ShotManifest(Config):
    """A sealed collection of shots."""

    kind: Literal["shots"] = KIND
    schema_version: int = SCHEMA_VERSION
    dataset_key: str
    """Hash of everything that decides which shots there are."""
    generation: int | None
    """Which captions the shots have, by how often they were asked for anew; None where none were asked for."""
    selection: dict[str, Any]
    """The settings that decided which shots are selected, and how they are stored."""
    edition: int
    """How often the shards were written anew, with other captions or another selection."""
    num_units: int
    """Units of the plan that are sealed here."""
    num_videos: int
    """Videos that gave at least one shot."""
    quarantined: dict[str, int]
    """Quarantined videos by reason; the rows are in `quarantine.parquet`."""
    shards: list[ShotShard]

    @property
    def num_shots(self) -> int:
        """Shots, whether they are selected or not."""
        return sum(shard.num_shots for shard in self.shards)

    @property
    def reasons(self) -> dict[str, int]:
        """Shots that are not selected, by reason, the most frequent first."""
        found: dict[str, int] = {}
        for shard in self.shards:
            for reason, number in shard.reasons.items():
                found[reason] = found.get(reason, 0) + number
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    @property
    def num_selected(self) -> int:
        """Shots that ingest takes."""
        return self.num_shots - sum(self.reasons.values())

    @property
    def selected_s(self) -> float:
        """Seconds of the selected shots."""
        return sum(shard.selected_s for shard in self.shards)


def write_manifest(collection_uri: str, manifest: ShotManifest) -> None:
    """Publish the collection: from now on readers see exactly these shards."""
    content = checked_json.dump(manifest.model_dump(mode="json"), indent=2)
    storage.write_bytes(storage.join(collection_uri, FILE_NAME), content)


def find_manifest(collection_uri: str) -> ShotManifest | None:
    """Return the manifest of a sealed collection; None where nothing is sealed, or the folder holds something else.

    Raises:
        UserError: it is damaged or of another version, or the storage cannot be reached.
    """
    uri = storage.join(collection_uri, FILE_NAME)
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError:
        return None
    fields = checked_json.load(content, uri, remedy="restore it")
    if fields.get("kind") != KIND:
        return None
    try:
        return ShotManifest.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{uri} is no manifest of shots of version {SCHEMA_VERSION}: {first_problem(error)}") from error
