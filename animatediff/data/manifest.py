"""The manifest: which shards make up a dataset, and what they hold. Written last, so what it lists is whole."""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from itertools import islice, product

from pydantic import ValidationError

from animatediff import storage
from animatediff.config import Config, first_problem
from animatediff.data.shards import SCHEMA_VERSION
from animatediff.errors import UserError
from animatediff.storage import checked_json

FILE_NAME = "manifest.json"

# What `Manifest.guess_old_digests` cover, for ever: fields that are added later are not to change them.
_COUNTED = {
    *("schema_version", "dataset_key", "encoder_fp", "scaling_factor", "num_units", "num_videos", "num_clips"),
    *("quarantined", "shards"),
}
_MOST_GUESSES = 5_000


class Shard(Config):
    """One sealed Parquet file."""

    path: str
    """Relative to the dataset's folder, for example `bucket=16x256x256/shard-00000.parquet`."""
    bucket: str
    """Frames x height x width in pixels of its clips, for example `16x256x256`."""
    num_clips: int
    num_videos: int
    """Distinct videos in this shard; a video's clips are never split over shards."""
    row_group_rows: list[int]
    """Rows of each row group, so that a reader can plan without opening the file."""
    num_bytes: int
    sha256: str


class Manifest(Config):
    """A sealed dataset."""

    schema_version: int = SCHEMA_VERSION
    dataset_key: str
    """Hash of everything that decides a clip's latents: sampling config and encoder."""
    encoder_fp: str
    """Fingerprint of the VAE's weights and the precision they were used in."""
    scaling_factor: float
    """Multiply stored latents by it before training, as the base's VAE config says."""
    latent_channels: int | None = None
    """Channels of the stored latents, (f c h w); None in manifests of earlier versions."""
    latent_factor: int | None = None
    """Pixels, in height and in width, to one of a latent's: a bucket `16x256x256` has latents (16 c 32 32) with 8."""
    num_units: int
    """Units of the plan that are sealed here."""
    num_videos: int
    """Videos that gave at least one clip."""
    num_clips: int
    quarantined: dict[str, int]
    """Quarantined videos by reason; the rows are in `quarantine.parquet`."""
    shards: list[Shard]

    def digest(self, num_shards: int | None = None) -> str:
        """Return the dataset's version.

        Sha256 of what training reads, which are the clips, their order and their scale.

        Videos that give no clip change nothing of it.

        Args:
            num_shards: the version with so many shards, from the first on; default: with all.
        """
        shards = [[shard.bucket, shard.row_group_rows, shard.sha256] for shard in self.shards[:num_shards]]
        return hashlib.sha256(json.dumps([self.encoder_fp, self.scaling_factor, shards]).encode()).hexdigest()

    def guess_old_digests(self) -> Iterator[str]:
        """Yield guesses of the digest that a run of an earlier release has stored of these clips.

        Those digests covered how many units there were, and how many videos were in quarantine by reason. Both may
        have grown since without a change of the clips, so that the numbers of then are not known: all smaller ones are
        tried after those of now, 5,000 guesses at most. A guess that equals the stored digest proves equal clips.
        """
        content = json.loads(self.model_dump_json(include=_COUNTED))
        counts = (range(number, -1, -1) for number in self.quarantined.values())
        for num_units, *numbers in islice(product(range(self.num_units, -1, -1), *counts), _MOST_GUESSES):
            found = [(reason, n) for reason, n in zip(self.quarantined, numbers, strict=True) if n]
            quarantined = dict(
                sorted(found, key=lambda pair: -pair[1])
            )  # as `quarantine_table.count_reasons` sorts them
            earlier = content | {"num_units": num_units, "quarantined": quarantined}
            yield hashlib.sha256(json.dumps(earlier, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def write_manifest(dataset_uri: str, manifest: Manifest) -> None:
    """Publish the dataset: from now on readers see exactly these shards."""
    content = checked_json.dump(manifest.model_dump(mode="json"), indent=2)
    storage.write_bytes(storage.join(dataset_uri, FILE_NAME), content)


def read_manifest(dataset_uri: str) -> Manifest:
    """Return the manifest of a sealed dataset.

    Raises:
        UserError: there is none (ingest has not finished, or the path is wrong), it is of another version, or it was
            changed since it was written.
    """
    uri = storage.join(dataset_uri, FILE_NAME)
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise UserError(f"no dataset at {dataset_uri}: {FILE_NAME} is missing (run pipelines/ingest.py)") from error
    fields = checked_json.load(content, uri, remedy="restore it")
    if fields.get("kind") == "shots":
        raise UserError(f"{dataset_uri} holds shots and no latents: name it as source.uri of pipelines/ingest.py first")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{uri} is no manifest of schema version {SCHEMA_VERSION}: {first_problem(error)}") from error


def check_shards(dataset_uri: str, manifest: Manifest) -> None:
    """Look whether all shards are there in their sizes; they are not read.

    Raises:
        UserError: one is missing or has another size, or the storage cannot be reached.
    """
    folders = sorted({posixpath.dirname(shard.path) for shard in manifest.shards})
    sizes = {
        posixpath.join(folder, name): size
        for folder in folders
        for name, size in storage.list_sizes(storage.join(dataset_uri, folder)).items()
    }
    wrong = [shard for shard in manifest.shards if sizes.get(shard.path) != shard.num_bytes]
    if wrong:
        first, size = wrong[0], sizes.get(wrong[0].path)
        others = f" (and {len(wrong) - 1} others)" if len(wrong) > 1 else ""
        what = "is missing" if size is None else f"is damaged, it has {size} bytes and not {first.num_bytes}"
        uri = storage.join(dataset_uri, first.path)
        raise UserError(f"{uri}{others} {what}: restore it, or ingest again into another folder")
