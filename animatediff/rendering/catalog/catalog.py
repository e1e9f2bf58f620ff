"""Catalogs: which prompts to render with which weights, and the items that follow from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.errors import UserError
from animatediff.models.config import Precision
from animatediff.rendering.catalog.canonical_json import sha256
from animatediff.rendering.catalog.condition_files import SettingsWithFileHashes, network_hashes
from animatediff.rendering.catalog.controls import FileUri
from animatediff.rendering.catalog.entries import (
    ComputeSettings,
    Entry,
    ModelFiles,
    PersonalisedFiles,
    Prompt,
    Prompts,
    RenderSettings,
    SeededRenderSettings,
)
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.model_identity import HashFile, ModelHasher
from animatediff.rendering.catalog.prompts.prompt_text import is_travel
from animatediff.rendering.catalog.unvalidated_copies import unvalidated_copy
from animatediff.uris import printable_uri
from animatediff.weights import checkpoints
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS

RENDER_VERSION = 4
"""Version of the pixels, a part of every digest: raise it when a change of the code changes them."""


class Catalog(SeededRenderSettings, ComputeSettings):
    """Entries, and what they share; settings given here are the entries' defaults."""

    base: FileUri | None = None
    """A diffusers folder, a URI, or a hub id."""
    motion_module: FileUri | None = None
    """A file, trained here or published, or a training run's folder."""
    noise_schedule: NoiseSchedule | None = None
    """The whole schedule of every entry that says nothing else; default: that of each entry's motion module, for what
    its checkpoint, or its base, predicts."""
    prompts: Prompts = ()
    """For every entry that names none of its own."""
    entries: tuple[Entry, ...] = Field(min_length=1)

    def model_files(self, entry: Entry) -> ModelFiles:
        """Return what an entry is rendered with: its own files and those of the catalog, how, and its noise schedule.

        Raises:
            UserError: neither the entry nor the catalog names a base or a motion module.
        """
        needed = (slot.field for slot in WEIGHTS_SLOTS.values() if slot.is_needed)
        shared = {name: getattr(entry, name) or getattr(self, name) for name in needed}
        for name, uri in shared.items():
            if uri is None:
                raise UserError(f"there is no {name}: name one in the entry or for the whole catalog")
        weights = {name: getattr(entry, name) for name in PersonalisedFiles.model_fields}
        weights["noise_schedule"] = self._schedule_of(entry)
        # The parts are validated already, and validating 100,000 of them again takes seconds.
        return ModelFiles.model_construct(_MODEL_FIELDS, **shared, **weights, **self.computing_of(entry))

    def _schedule_of(self, entry: Entry) -> NoiseScheduleOverrides | None:
        """Return what an entry says of its noise schedule, in the catalog's if that has one; None is nothing."""
        whole = {} if self.noise_schedule is None else self.noise_schedule.model_dump()
        own = {} if entry.noise_schedule is None else entry.noise_schedule.model_dump(exclude_none=True)
        return NoiseScheduleOverrides(**(whole | own)) if whole or own else None

    def computing_of(self, entry: Entry) -> dict[str, Any]:
        """Return the fields of `ComputeSettings` for an entry."""
        overridden = entry.model_fields_set
        return {name: getattr(entry if name in overridden else self, name) for name in ComputeSettings.model_fields}

    def prompts_of(self, entry: Entry) -> tuple[Prompt, ...]:
        """Return the entry's own prompts, or the catalog's."""
        return entry.prompts or self.prompts

    def settings_of(self, entry: Entry) -> dict[str, Any]:
        """Return the fields of `SeededRenderSettings` for prompts of the entry that say nothing else."""
        overridden = entry.model_fields_set
        return {
            name: getattr(entry if name in overridden else self, name) for name in SeededRenderSettings.model_fields
        }

    def settings_of_prompts(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Yield the fields of `SeededRenderSettings` for each of the entry's prompts."""
        shared = self.settings_of(entry)
        yield from (settings_of_prompt(shared, prompt) for prompt in self.prompts_of(entry))


def settings_of_prompt(shared: Mapping[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Return the fields of `SeededRenderSettings` for a prompt: its own over those of its entry.

    Args:
        shared: what `Catalog.settings_of` gives for its entry.
        prompt: one of the entry's.
    """
    overridden = prompt.model_fields_set & SeededRenderSettings.model_fields.keys()
    return {**shared, **{name: getattr(prompt, name) for name in overridden}}


class RenderPlan(NamedTuple):
    """What a catalog expands to."""

    items: list[Item]
    """In the catalog's order, each entry with each of its prompts and seeds."""
    models: dict[str, ModelFiles]
    """The weights files of each model, by its digest, which is `Item.model`."""
    file_hashes: dict[str, dict[str, str]]
    """By the same digest: the SHA-256 of each of its files, as `Result.model_hashes` has them."""
    network_hashes: dict[str, str]
    """The SHA-256 of the networks that settings name, and of what reads their images, by URI."""
    invalid: dict[str, str]
    """Why an item cannot be rendered, by the item's digest."""


EntryIndex = int | tuple[int, int]
"""The number of an entry in its catalog, or those of an entry and of one of its prompts."""

_MODEL_FIELDS = set(ModelFiles.model_fields)
# What all items are copies of: validating 100,000 takes seconds, and what they consist of is validated already.
_ITEM = Item(digest="", entry="", model="", prompt="", seed=0)
_ITEM_FIELDS = set(Item.model_fields)
# Settings that are in the digest even at their default. Those that were added since are left out at their default, so
# that the digests of all items without them stay.
_ALWAYS_IN_DIGEST = frozenset(
    {
        *("negative_prompt", "sampler", "timestep_spacing", "num_inference_steps", "guidance_scale"),
        *("guidance_rescale", "clip_skip", "width", "height", "num_frames", "fps", "context", "loop"),
    }
)
_DEFAULTS = {name: field.default for name, field in RenderSettings.model_fields.items()}


def expand(
    catalog: Catalog,
    *,
    problems: Mapping[EntryIndex, str] | None = None,
    content_hash: HashFile = checkpoints.content_hash,
    auto_precision: Precision | None = None,
) -> RenderPlan:
    """Return the items of a catalog: every entry with each of its prompts and seeds.

    Reads all files once, to hash them; a base given as a hub id counts by its name.

    Args:
        catalog: with all prompts and entries in it.
        problems: what `checks.check` gives: why items cannot be rendered. Their digests cover the reason and the
            entry's name, too, so that no item without problems has them.
        content_hash: SHA-256 of what lies at a URI; raises UserError or OSError for what cannot be read. Such a file
            counts by its name: its items will fail, and a later one in its place makes other items.
        auto_precision: what `precision: auto` stands for; it is in digests as if the catalog said so.

    Raises:
        UserError: an entry without problems has neither base nor motion module.
    """
    problems = problems or {}
    hasher = ModelHasher(content_hash)
    settings_with_file_hashes = SettingsWithFileHashes(hasher.content_hash)
    plan = RenderPlan([], {}, {}, {}, {})
    for index, entry in enumerate(catalog.entries):
        model_digest = _add_model(plan, catalog, entry, hasher, auto_precision, is_invalid=index in problems)
        prompts = zip(catalog.prompts_of(entry), catalog.settings_of_prompts(entry), strict=True)
        for number, (prompt, settings) in enumerate(prompts):
            problem = problems.get(index) or problems.get((index, number))
            found = network_hashes(settings, hasher.printable_hash)
            plan.network_hashes.update({printable_uri(uri): content for uri, content in found.items()})
            items = list(_items(entry, prompt, settings, model_digest, settings_with_file_hashes, problem))
            plan.items.extend(items)
            if problem:
                plan.invalid.update(dict.fromkeys((item.digest for item in items), problem))
    return plan


def _add_model(
    plan: RenderPlan,
    catalog: Catalog,
    entry: Entry,
    hasher: ModelHasher,
    auto_precision: Precision | None,
    *,
    is_invalid: bool,
) -> str:
    """Add an entry's model to the plan; return its digest, empty where it has none."""
    try:
        model = catalog.model_files(entry)
    except UserError:
        if not is_invalid:
            raise
        return ""
    if model.precision == "auto":
        model = model.model_copy(update={"precision": auto_precision})
    hashes = hasher.file_hashes(model)
    digest = sha256(hasher.identity(model, hashes))
    if digest not in plan.models:
        plan.models[digest] = model
        plan.file_hashes[digest] = {printable_uri(uri): found for uri, found in hashes.items()}
    return digest


def _items(
    entry: Entry,
    prompt: Prompt,
    settings: dict[str, Any],
    model_digest: str,
    settings_with_file_hashes: Callable[[Mapping[str, Any]], dict[str, Any]],
    problem: str | None,
) -> Iterator[Item]:
    seeds: Sequence[int] = settings.pop("seeds")
    digest_settings = {
        name: value
        for name, value in settings.items()
        if name in _ALWAYS_IN_DIGEST or (value != _DEFAULTS[name] and name != "preset")  # whose settings are in it
    }
    if not any(map(is_travel, (prompt.prompt, settings["negative_prompt"]))):
        digest_settings.pop("travel", None)  # there is no other text to go to
    digest_input = settings_with_file_hashes(digest_settings) | {
        "version": RENDER_VERSION,
        "model": model_digest,
        "prompt": prompt.prompt,
    }
    if problem:
        digest_input |= {"entry": entry.name, "problem": problem}
    fields = settings | {
        "entry": entry.name,
        "model": model_digest,
        "priority": entry.priority,
        "prompt": prompt.prompt,
    }
    for seed in seeds:
        yield unvalidated_copy(_ITEM, _ITEM_FIELDS, **fields, seed=seed, digest=sha256(digest_input | {"seed": seed}))
