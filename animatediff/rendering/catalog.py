"""Catalogs: which prompts to render with which weights, and the items that follow from them."""

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.weights import base, checkpoints, motion_modules, textual_inversion
from animatediff.weights.resident import Addition

RENDER_VERSION = 2
"""Part of every digest; raise it when a change of the code changes pixels."""

WeightsUri = Annotated[str, AfterValidator(storage.absolute_if_there)]


class Settings(Config):
    """What a prompt is rendered with; the defaults are the reference's."""

    negative_prompt: str = ""
    """What the guidance leads away from."""
    num_inference_steps: int = Field(25, ge=1, le=1000)
    """Denoising steps."""
    guidance_scale: float = Field(8.0, ge=0, le=100)
    """Strength of the prompt; at 1 and below the negative prompt is not used."""
    width: int = Field(512, ge=8)
    """Of a frame, in pixels."""
    height: int = Field(512, ge=8)
    """Of a frame, in pixels."""
    num_frames: int = Field(16, ge=1)
    """At most what the motion module's position table holds."""
    fps: float = Field(8.0, gt=0, le=100)
    """Frames per second of the written video."""


class SeededSettings(Settings):
    """Settings, and the seeds to repeat them with."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0,), min_length=1)
    """Every prompt is rendered once for each."""


class Lora(Config):
    """A low-rank file and its strength."""

    path: WeightsUri
    """A weights file, local or at a URI."""
    scale: float = 1.0
    """1 is as trained, 0 leaves it out."""


class EmbeddingFile(Config):
    """A textual inversion."""

    path: WeightsUri
    """A weights file, local or at a URI."""
    token: str | None = Field(None, min_length=1)
    """The word that stands for it in prompts; default: the file's own, else its name without suffix."""


class Weights(Config):
    """What makes the base an entry's own model."""

    checkpoint: WeightsUri | None = None
    """A diffusers folder, or a single file in the original layout; default: the base as it is."""
    loras: tuple[Lora, ...] = ()
    """LoRA, LoCon, LoHa or LoKr files; their changes add up."""
    domain_adapter: Lora | None = None
    """The adapter that the motion module was trained beside (v3); left out, as published, it plays no part."""
    motion_loras: tuple[Lora, ...] = ()
    """Camera moves and learned motions, added to the motion module."""
    embeddings: tuple[EmbeddingFile, ...] = ()
    """Textual inversions, used where their words stand in a prompt or a negative prompt."""

    def additions(self) -> list[Addition]:
        """The low-rank files by what they are."""
        adapter = [self.domain_adapter] if self.domain_adapter else []
        return [
            *(Addition(file.path, file.scale, "domain_adapter") for file in adapter),
            *(Addition(file.path, file.scale, "lora") for file in self.loras),
            *(Addition(file.path, file.scale, "motion_lora") for file in self.motion_loras),
        ]


class Entry(SeededSettings, Weights):
    """A personalised model and its prompts; settings given here override the catalog's."""

    name: str
    """Unique in the catalog; letters, digits, `.`, `_` and `-`."""
    prompts: tuple[str, ...] = Field(min_length=1)


class Catalog(SeededSettings):
    """Entries that share a base and a motion module; settings given here are the entries' defaults."""

    base: WeightsUri
    """A diffusers folder, a URI, or a hub id."""
    motion_module: WeightsUri
    """A `.safetensors` file, trained here or published."""
    noise_schedule: NoiseSchedule | None = None
    """The one that the motion module was trained with; default: the one that its file names, else the reference's."""
    entries: tuple[Entry, ...] = Field(min_length=1)

    def settings(self, entry: Entry) -> SeededSettings:
        """The entry's settings, the catalog's where it is silent."""
        given = entry.model_fields_set & SeededSettings.model_fields.keys()
        values = {name: getattr(entry if name in given else self, name) for name in SeededSettings.model_fields}
        return SeededSettings(**values)


class Item(Settings):
    """One clip to render."""

    digest: str
    """SHA-256 over everything that decides the pixels: equal digests are rendered once."""
    entry: str
    prompt: str
    seed: int


class Result(Item):
    """What became of an item."""

    status: Literal["ok", "failed"]
    error: str | None = None
    seconds: float = 0.0
    """Of the attempt that this tells of."""
    mp4: str | None = None
    """Where the clip lies under the output folder."""
    gif: str | None = None
    mp4_sha256: str | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    """What the score job measured of the clip, by name."""
    scored_by: str | None = None
    """The scorer's import path."""
    score_error: str | None = None
    """Why the scorer gave nothing."""


def expand(catalog: Catalog) -> list[Item]:
    """Every entry with each of its prompts and seeds, in the catalog's order.

    Reads all weights files once, to hash them; a base given as a hub id counts by its name.

    Raises:
        UserError: a weights file cannot be read.
    """
    content_hash = cache(checkpoints.content_hash)
    folder = base.resolve(catalog.base)
    shared = {
        "version": RENDER_VERSION,
        "base": content_hash(folder) if Path(folder).exists() else folder,
        "motion_module": content_hash(catalog.motion_module),
        # Left out, it is the motion module's own, which that one's hash covers.
        "noise_schedule": catalog.noise_schedule and catalog.noise_schedule.model_dump(),
    }
    items: list[Item] = []
    for entry in catalog.entries:
        weights = {
            "checkpoint": entry.checkpoint and content_hash(entry.checkpoint),
            "additions": [(content_hash(file.uri), file.scale, file.family) for file in entry.additions()],
            "embeddings": [(content_hash(file.path), token_of(file)) for file in entry.embeddings],
        }
        items += _entry_items(catalog, entry, shared | weights)
    return items


def schedule_of(motion_module: str | None) -> NoiseSchedule:
    """The noise schedule that a motion module's file says it was trained with; the reference's where it says none.

    Raises:
        UserError: the file cannot be read, or says something else.
    """
    found = motion_modules.open_file(motion_module).schedule if motion_module is not None else None
    try:
        return NoiseSchedule.model_validate(found or {})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"the noise schedule in {motion_module} cannot be used: {reason}") from error


def token_of(file: EmbeddingFile) -> str | None:
    """The word that stands for an embedding in prompts; None if its file cannot be read, which its items will tell."""
    try:
        return textual_inversion.read(file.path, token=file.token).token
    except UserError:
        return None


def _entry_items(catalog: Catalog, entry: Entry, weights: dict[str, object]) -> Iterator[Item]:
    settings = catalog.settings(entry)
    for prompt in entry.prompts:
        for seed in settings.seeds:
            values = settings.model_dump(exclude={"seeds"}) | {"prompt": prompt, "seed": seed}
            digest = hashlib.sha256(json.dumps(weights | values, sort_keys=True).encode()).hexdigest()
            yield Item(**values, entry=entry.name, digest=digest)
