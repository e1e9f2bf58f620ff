"""Catalogs: which prompts to render with which weights, and the items that follow from them."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from animatediff import storage
from animatediff.config import Config
from animatediff.diffusion.context import Context
from animatediff.diffusion.samplers import Sampler, TimestepSpacing
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.weights import base, checkpoints, motion_modules, textual_inversion
from animatediff.weights.resident import Addition

RENDER_VERSION = 3
"""Part of every digest; raise it when a change of the code changes pixels."""

WeightsUri = Annotated[str, AfterValidator(storage.absolute_if_there)]


class Settings(Config):
    """What a prompt is rendered with; the defaults are the reference's."""

    negative_prompt: str = ""
    """What the guidance leads away from."""
    sampler: Sampler = "ddim"
    """The way from noise to latents. Few-step motion modules need theirs: Lightning `euler` with `timestep_spacing:
    trailing`, AnimateLCM `lcm`; both with few steps and little guidance."""
    timestep_spacing: TimestepSpacing | None = None
    """How the steps are spread over the schedule's timesteps; default: the sampler's own."""
    num_inference_steps: int = Field(25, ge=1, le=1000)
    """Denoising steps."""
    guidance_scale: float = Field(8.0, ge=0, le=100)
    """Strength of the prompt; at 1 and below the negative prompt is not used."""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """Share of the guided prediction that is brought back to the unguided one's spread, against burnt-out colours
    (Lin et al., arXiv 2305.08891, who take 0.7)."""
    clip_skip: int = Field(0, ge=0, le=11)
    """Last layers of the text encoder that are left out; what other tools call clip skip 2 is 1 here."""
    width: int = Field(512, ge=8)
    """Of a frame, in pixels."""
    height: int = Field(512, ge=8)
    """Of a frame, in pixels."""
    num_frames: int = Field(16, ge=1)
    """Any number with `context`; without it, at most what the motion module's position table holds."""
    fps: float = Field(8.0, gt=0, le=100)
    """Frames per second of the written video."""
    context: Context | None = None
    """Windows of frames that the motion module sees at a time; default: all frames at once."""
    loop: bool = False
    """Whether the last frame goes over into the first; windows of `context` then reach around the clip's end."""


class SeededSettings(Settings):
    """Settings, and the seeds to repeat them with."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field((0,), min_length=1)
    """Every prompt is rendered once for each."""


class Prompt(SeededSettings):
    """A prompt; settings given here override its entry's and the catalog's."""

    prompt: str
    """What the clip shows."""


def _as_prompt(value: Any) -> Any:
    return {"prompt": value} if isinstance(value, str) else value


Prompts = tuple[Annotated[Prompt, BeforeValidator(_as_prompt)], ...]
"""In a file: texts, or mappings with the text as `prompt` and the settings that it needs."""


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


class Model(Weights):
    """All weights that an item is rendered with."""

    base: WeightsUri
    """A diffusers folder, a URI, or a hub id."""
    motion_module: WeightsUri
    """A `.safetensors` file, trained here or published."""
    noise_schedule: NoiseSchedule | None = None
    """The one that the motion module was trained with; default: the one that its file names, else the reference's."""


class Entry(SeededSettings, Weights):
    """A personalised model and its prompts; settings given here override the catalog's."""

    name: str
    """Says which model it is; letters, digits, `.`, `_` and `-`. Entries of one name have the same weights."""
    base: WeightsUri | None = None
    """Default: the catalog's."""
    motion_module: WeightsUri | None = None
    """Default: the catalog's."""
    priority: int = 0
    """Entries of a higher one are rendered first."""
    prompts: Prompts = ()
    """Default: the catalog's, so that every model is shown with every prompt."""


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
        """The entry's weights.

        Raises:
            UserError: neither the entry nor the catalog names a base or a motion module.
        """
        shared = {name: getattr(entry, name) or getattr(self, name) for name in ("base", "motion_module")}
        for name, uri in shared.items():
            if uri is None:
                raise UserError(f"there is no {name}: name one in the entry or for the whole catalog")
        weights = {name: getattr(entry, name) for name in Weights.model_fields}
        # The parts are validated already, and validating 100,000 of them again takes seconds.
        return Model.model_construct(**shared, noise_schedule=self.noise_schedule, **weights)

    def prompts_of(self, entry: Entry) -> tuple[Prompt, ...]:
        """The entry's own prompts, or the catalog's."""
        return entry.prompts or self.prompts


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


class Result(Item):
    """What became of an item."""

    status: Status
    error: str | None = None
    """Why there is no clip."""
    warning: str | None = None
    """What was done otherwise than written: a prompt that was cut off."""
    attempts: int = 0
    """Times that a worker began with it."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Of the last attempt, by stage: `load` and `text` (the item's share), `unet`, `vae`, `encode`, `write`."""
    files: dict[str, str] = Field(default_factory=dict)
    """Paths under the output folder: `mp4`, `gif`, `webp`, `png` (a folder), `latents`, and `poster`, a still."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Of each file; of a folder, over its files' in their order."""
    model_hashes: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the weights' contents by URI; a base given as a hub id stands for itself."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of this project and of the packages that decide pixels, and the device."""
    scores: dict[str, float] = Field(default_factory=dict)
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


HashFile = Callable[[str], str]


def expand(
    catalog: Catalog, *, problems: Mapping[int, str] | None = None, content_hash: HashFile = checkpoints.content_hash
) -> Plan:
    """Every entry with each of its prompts and seeds.

    Reads all weights files once, to hash them; a base given as a hub id counts by its name.

    Args:
        catalog: with all prompts and entries in it.
        problems: by an entry's place in the catalog: why its items cannot be rendered.
        content_hash: SHA-256 of what lies at a URI; raises UserError or OSError for what cannot be read. Such a file
            counts by its name: its items will fail, and a later one in its place makes other items.

    Raises:
        UserError: an entry has neither base nor motion module.
    """
    hashed = cache(lambda uri: _hash(uri, content_hash))
    plan = Plan([], {}, {}, {})
    for index, entry in enumerate(catalog.entries):
        model = catalog.model(entry)
        hashes = {model.base: hashed(_folder(model.base))} | {uri: hashed(uri) for uri in _files(model)}
        key = _sha256(_identity(model, hashes))
        plan.models[key], plan.hashes[key] = model, hashes
        items = list(_items(catalog, entry, key))
        plan.items.extend(items)
        if problems and index in problems:
            plan.invalid.update(dict.fromkeys((item.digest for item in items), problems[index]))
    return plan


def _folder(base_uri: str) -> str:
    try:
        return base.resolve(base_uri)
    except UserError:
        return base_uri


def _files(model: Model) -> list[str]:
    """The URIs of a model's weights files, without the base."""
    embeddings = (file.path for file in model.embeddings)
    additions = (file.uri for file in model.additions())
    checkpoint = [model.checkpoint] if model.checkpoint else []
    return [model.motion_module, *checkpoint, *additions, *embeddings]


def _hash(uri: str, content_hash: HashFile) -> str:
    try:
        return content_hash(uri) if "://" in uri or Path(uri).exists() else uri
    except (UserError, OSError):
        return uri


def _identity(model: Model, hashes: Mapping[str, str]) -> dict[str, Any]:
    """What decides the weights, whatever the files are called."""
    return {
        "base": hashes[model.base],
        "motion_module": hashes[model.motion_module],
        # Left out, it is the motion module's own, which that one's hash covers.
        "noise_schedule": model.noise_schedule and model.noise_schedule.model_dump(),
        "checkpoint": model.checkpoint and hashes[model.checkpoint],
        "additions": [(hashes[file.uri], file.scale, file.family) for file in model.additions()],
        "embeddings": [(hashes[file.path], token_of(file)) for file in model.embeddings],
    }


def _items(catalog: Catalog, entry: Entry, model: str) -> Iterator[Item]:
    names = SeededSettings.model_fields.keys()
    shared = {name: getattr(entry if name in entry.model_fields_set else catalog, name) for name in names}
    for prompt in catalog.prompts_of(entry):
        values = shared | {name: getattr(prompt, name) for name in prompt.model_fields_set & names}
        seeds: Sequence[int] = values.pop("seeds")
        context = values["context"]
        pixels = values | {
            "version": RENDER_VERSION,
            "model": model,
            "prompt": prompt.prompt,
            "context": context and context.model_dump(),
        }
        for seed in seeds:
            digest = _sha256(pixels | {"seed": seed})
            yield Item.model_construct(
                **values,
                digest=digest,
                entry=entry.name,
                model=model,
                priority=entry.priority,
                prompt=prompt.prompt,
                seed=seed,
            )


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
