"""Catalogs: which prompts to render with which weights, and the items that follow from them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.rendering.catalog.copies import sha256, with_fields
from animatediff.rendering.catalog.entries import (
    EmbeddingFile,
    Entry,
    Model,
    Prompt,
    Prompts,
    SeededSettings,
    Settings,
    Weights,
    WeightsUri,
)
from animatediff.uris import printable_uri, with_secrets
from animatediff.weights import base_facts, checkpoints, textual_inversion

RENDER_VERSION = 4
"""Part of every digest; raise it when a change of the code changes pixels."""


class Catalog(SeededSettings):
    """Entries, and what they share; settings given here are the entries' defaults."""

    base: WeightsUri | None = None
    """A diffusers folder, a URI, or a hub id."""
    motion_module: WeightsUri | None = None
    """A `.safetensors` file, trained here or published."""
    noise_schedule: NoiseSchedule | None = None
    """The one that the motion modules were trained with; default: the one that their files name, else the
    reference's."""
    prompts: Prompts = ()
    """For every entry that names none of its own."""
    entries: tuple[Entry, ...] = Field(min_length=1)

    def model(self, entry: Entry) -> Model:
        """Return the entry's weights.

        Raises:
            UserError: neither the entry nor the catalog names a base or a motion module.
        """
        shared = {name: getattr(entry, name) or getattr(self, name) for name in ("base", "motion_module")}
        for name, uri in shared.items():
            if uri is None:
                raise UserError(f"there is no {name}: name one in the entry or for the whole catalog")
        weights = {name: getattr(entry, name) for name in Weights.model_fields}
        # The parts are validated already, and validating 100,000 of them again takes seconds.
        return Model.model_construct(_MODEL_FIELDS, **shared, noise_schedule=self.noise_schedule, **weights)

    def prompts_of(self, entry: Entry) -> tuple[Prompt, ...]:
        """Return the entry's own prompts, or the catalog's."""
        return entry.prompts or self.prompts

    def settings_of(self, entry: Entry) -> dict[str, Any]:
        """Return the fields of `SeededSettings` for prompts of the entry that say nothing else."""
        own = entry.model_fields_set
        return {name: getattr(entry if name in own else self, name) for name in SeededSettings.model_fields}


def settings_of_prompt(shared: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return a prompt's settings.

    Args:
        shared: what `Catalog.settings_of` gives for its entry.
        prompt: one of the entry's.
    """
    own = prompt.model_fields_set & SeededSettings.model_fields.keys()
    return {**shared, **{name: getattr(prompt, name) for name in own}}


class Item(Settings):
    """One clip to render."""

    digest: str
    """SHA-256 over everything that decides the pixels: equal digests are rendered once."""
    entry: str
    """Its name."""
    model: str
    """SHA-256 over what decides the weights: items of equal ones are rendered together."""
    priority: int = 0
    prompt: str
    seed: int


Status = Literal["ok", "failed", "invalid"]
"""`invalid` are the items that were not tried, since their entry cannot be rendered as it is written."""


def _finite(values: Any) -> Any:
    """Return the finite numbers of a mapping.

    NaN and infinity cannot be said in JSON or on a page, and are left out.
    """
    if not isinstance(values, Mapping):
        return values
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


_Numbers = Annotated[dict[str, float], BeforeValidator(_finite), PlainSerializer(_finite)]


class Result(Item):
    """What became of an item."""

    status: Status
    error: str | None = None
    """Why there is no clip."""
    warning: str | None = None
    """What was done otherwise than written: a prompt that was cut off, or syntax in it that was read as characters."""
    attempts: int = 0
    """Times that a worker began with it."""
    seconds: _Numbers = Field(default_factory=dict)
    """Of the last attempt, by stage: `load` and `text` (the item's share), `unet`, `vae`, `encode`, `write`."""
    files: dict[str, str] = Field(default_factory=dict)
    """Paths under the output folder: `mp4`, `gif`, `webp`, `png` (a folder), `latents`, and `poster`, a still."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Of each file; of a folder, over its files' in their order."""
    num_bytes: dict[str, int] = Field(default_factory=dict)
    """Size of each file; of a folder, of its files together."""
    model_hashes: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights' contents by URI; a base given as a hub id stands for itself."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of this project and of the packages that decide pixels, and the device."""
    scores: _Numbers = Field(default_factory=dict)
    """What the score job measured of the clip, by name."""
    scored_by: str | None = None
    """The scorer's import path."""
    score_error: str | None = None
    """Why the scorer gave nothing."""


class Plan(NamedTuple):
    """What a catalog expands to."""

    items: list[Item]
    """In the catalog's order, each entry with each of its prompts and seeds."""
    models: dict[str, Model]
    """The weights of the items by `Item.model`."""
    hashes: dict[str, dict[str, str]]
    """By `Item.model`: what `Result.model_hashes` says."""
    invalid: dict[str, str]
    """By digest: why an item cannot be rendered."""


Place = int | tuple[int, int]
"""Of an entry in its catalog, or of an entry and of one of its prompts."""

HashFile = Callable[[str], str]

_MODEL_FIELDS = set(Model.model_fields)
# What all items are copies of: validating 100,000 takes seconds, and what they consist of is validated already.
_ITEM = Item(digest="", entry="", model="", prompt="", seed=0)
_ITEM_FIELDS = set(Item.model_fields)


def expand(
    catalog: Catalog, *, problems: Mapping[Place, str] | None = None, content_hash: HashFile = checkpoints.content_hash
) -> Plan:
    """Every entry with each of its prompts and seeds.

    Reads all weights files once, to hash them; a base given as a hub id counts by its name.

    Args:
        catalog: with all prompts and entries in it.
        problems: what `checks.check` gives: why items cannot be rendered. Their digests cover the reason and the
            entry's name, too, so that no item without problems has them.
        content_hash: SHA-256 of what lies at a URI; raises UserError or OSError for what cannot be read. Such a file
            counts by its name: its items will fail, and a later one in its place makes other items.

    Raises:
        UserError: an entry without problems has neither base nor motion module.
    """
    problems = problems or {}
    identify = _Identities(content_hash)
    plan = Plan([], {}, {}, {})
    for index, entry in enumerate(catalog.entries):
        key = _add_model(plan, catalog, entry, identify, is_invalid=index in problems)
        shared = catalog.settings_of(entry)
        for number, prompt in enumerate(catalog.prompts_of(entry)):
            problem = problems.get(index) or problems.get((index, number))
            items = list(_items(entry, prompt, settings_of_prompt(shared, prompt), key, problem))
            plan.items.extend(items)
            if problem:
                plan.invalid.update(dict.fromkeys((item.digest for item in items), problem))
    return plan


def _add_model(plan: Plan, catalog: Catalog, entry: Entry, identify: "_Identities", *, is_invalid: bool) -> str:
    try:
        model = catalog.model(entry)
    except UserError:
        if not is_invalid:
            raise
        return ""
    hashes = identify.hashes(model)
    key = sha256(identify(model, hashes))
    if key not in plan.models:
        plan.models[key] = model
        plan.hashes[key] = {printable_uri(uri): found for uri, found in hashes.items()}
    return key


class _Identities:
    """What decides the weights of models, whatever the files are called. Each file is read once."""

    def __init__(self, content_hash: HashFile) -> None:
        self._hash = cache(lambda uri: _hash(uri, content_hash))
        self._hash_base = cache(lambda uri: _hash(base_folder(uri), content_hash))
        self._token = cache(lambda path, token: token_of(EmbeddingFile.model_construct(path=path, token=token)))

    def hashes(self, model: Model) -> dict[str, str]:
        """SHA-256 by URI."""
        return {model.base: self._hash_base(model.base)} | {uri: self._hash(uri) for uri in weights_uris(model)}

    def __call__(self, model: Model, hashes: Mapping[str, str]) -> dict[str, Any]:
        # What cannot be read counts by all of its name.
        hashes = {uri: with_secrets(found) for uri, found in hashes.items()}
        return {
            "base": hashes[model.base],
            "motion_module": hashes[model.motion_module],
            # Left out, it is the motion module's own, which that one's hash covers.
            "noise_schedule": model.noise_schedule and model.noise_schedule.model_dump(),
            "checkpoint": model.checkpoint and hashes[model.checkpoint],
            "vae": model.vae and hashes[model.vae],
            "additions": [(hashes[file.uri], file.scale, file.family) for file in model.additions()],
            "embeddings": [(hashes[file.path], self._token(file.path, file.token)) for file in model.embeddings],
        }


def base_folder(base_uri: str) -> str:
    """Where a base's files lie; its hub id, or what it is called if it cannot be found."""
    try:
        return base_facts.resolve(base_uri)
    except UserError:
        return base_uri


def weights_uris(model: Model) -> list[str]:
    """Return the URIs of a model's weights files, without the base."""
    embeddings = (file.path for file in model.embeddings)
    additions = (file.uri for file in model.additions())
    replacing = (uri for uri in (model.checkpoint, model.vae) if uri is not None)
    return [model.motion_module, *replacing, *additions, *embeddings]


def _hash(uri: str, content_hash: HashFile) -> str:
    try:
        return content_hash(uri) if "://" in uri or Path(uri).exists() else uri
    except (UserError, OSError):
        return uri


def _items(entry: Entry, prompt: Prompt, settings: dict[str, Any], model: str, problem: str | None) -> Iterator[Item]:
    seeds: Sequence[int] = settings.pop("seeds")
    context = settings["context"]
    pixels = settings | {
        "version": RENDER_VERSION,
        "model": model,
        "prompt": prompt.prompt,
        "context": context and context.model_dump(),
    }
    if problem:
        pixels |= {"entry": entry.name, "problem": problem}
    own = settings | {"entry": entry.name, "model": model, "priority": entry.priority, "prompt": prompt.prompt}
    for seed in seeds:
        yield with_fields(_ITEM, _ITEM_FIELDS, **own, seed=seed, digest=sha256(pixels | {"seed": seed}))


def token_of(file: EmbeddingFile) -> str | None:
    """Return the word that stands for an embedding in prompts.

    None if its file cannot be read, which its items will tell.
    """
    try:
        return textual_inversion.read(file.path, token=file.token).token
    except UserError:
        return None
