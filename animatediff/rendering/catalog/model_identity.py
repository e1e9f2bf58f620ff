"""What decides a model, whatever its files are called, weights and rounding: a part of every digest of its items."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.rendering.catalog.entries import ComputeSettings, ModelFiles
from animatediff.rendering.catalog.named_files import named_files
from animatediff.uris import with_secrets
from animatediff.weights import base_facts, textual_inversion

HashFile = Callable[[str], str]

# Slots that are in the digest even where they are empty. Those that were added since are left out where they are, so
# that the digests of all models without them stay.
_NONE: dict[str, Any] = {"checkpoint": None, "vae": None, "additions": [], "embeddings": []}


class ModelHasher:
    """Tells models apart by what their files hold. Each file is read once.

    Args:
        content_hash: SHA-256 of what lies at a URI; raises UserError or OSError for what cannot be read, which counts
            by its name.
    """

    def __init__(self, content_hash: HashFile) -> None:
        self._hash = cache(lambda uri: _hash(uri, content_hash))
        self._hash_base = cache(lambda uri: _hash(base_folder(uri), content_hash))
        self._token = cache(token_of)

    def content_hash(self, uri: str) -> str:
        """Return the SHA-256 of any file; of one that cannot be read, all of its name."""
        return with_secrets(self._hash(uri))

    def printable_hash(self, uri: str) -> str:
        """Return the SHA-256 of any file; of one that cannot be read, what may be printed of its name."""
        return self._hash(uri)

    def file_hashes(self, model: ModelFiles) -> dict[str, str]:
        """Return the SHA-256 of a model's files by URI, in the order of the slots."""
        return {
            file.uri: self._hash_base(file.uri) if file.slot.role == "base" else self._hash(file.uri)
            for file in named_files(model)
        }

    def identity(self, model: ModelFiles, hashes: Mapping[str, str]) -> dict[str, Any]:
        """Return what tells a model from all others, as JSON can say it.

        Args:
            model: the model.
            hashes: what `file_hashes` gives for it.
        """
        # What is left out of the schedule is as the files say, which their hashes cover.
        schedule = model.noise_schedule and model.noise_schedule.model_dump(exclude_none=True)
        lists: dict[str, list[Any]] = defaultdict(list)
        # How the UNet rounds tells models apart where it is said; what a device does by itself is in no digest.
        computing = {name: value for name in ComputeSettings.model_fields if (value := getattr(model, name))}
        found: dict[str, Any] = _NONE | {"noise_schedule": schedule} | computing
        for file in named_files(model):
            content = with_secrets(hashes[file.uri])  # what cannot be read counts by all of its name
            if file.slot.has_scale:
                lists["additions"].append((content, file.scale, file.slot.family))
            elif file.slot.role == "embedding":
                lists[file.slot.field].append((content, self._token(file.uri, file.token)))
            else:
                found[file.slot.field] = content
        return found | lists


def base_folder(base_uri: str) -> str:
    """Return where a base's files lie; its hub id, or what it is called if it cannot be found."""
    try:
        return base_facts.resolve(base_uri)
    except UserError:
        return base_uri


def token_of(uri: str, token: str | None) -> str | None:
    """Return the word that stands for an embedding in prompts.

    Args:
        uri: the embedding's file.
        token: the word that it is given; None is the file's own.

    Returns:
        None if the file cannot be read, which its items will tell.
    """
    try:
        return textual_inversion.read(uri, token=token).token
    except UserError:
        return None


def _hash(uri: str, content_hash: HashFile) -> str:
    try:
        return content_hash(uri) if "://" in uri or Path(uri).exists() else uri
    except (UserError, OSError):
        return uri
