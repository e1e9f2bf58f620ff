"""Catalogs: which prompts to render with which weights, and the items that follow from them."""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from pydantic import AfterValidator, Field

from animatediff import storage
from animatediff.config import Config, load
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.weights import base, checkpoints, motion_modules

RENDER_VERSION = 1
"""Part of every digest; raise it when a change of the code changes pixels."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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
    """A LoRA file and its strength."""

    path: WeightsUri
    """A `.safetensors` file, local or at a URI."""
    scale: float = 1.0
    """1 is as trained."""


class Entry(SeededSettings):
    """A personalised model and its prompts; settings given here override the catalog's."""

    name: str
    """Unique in the catalog; letters, digits, `.`, `_` and `-`."""
    checkpoint: WeightsUri | None = None
    """A diffusers folder or an LDM `.safetensors` file; default: the base as it is."""
    loras: tuple[Lora, ...] = ()
    """Merged in this order."""
    prompts: tuple[str, ...] = Field(min_length=1)


class Catalog(SeededSettings):
    """Entries that share a base and a motion module; settings given here are the entries' defaults."""

    base: WeightsUri
    """A diffusers folder, a URI, or a hub id."""
    motion_module: WeightsUri
    """A `.safetensors` file, trained here or published."""
    noise_schedule: NoiseSchedule = NoiseSchedule()
    """The one that the motion module was trained with."""
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


def read(uri: str) -> Catalog:
    """Read a catalog file and check everything in it that can be checked without rendering.

    Raises:
        UsageError: the file is missing or does not fit the schema.
        UserError: as `check` says.
    """
    catalog = load(Catalog, uri)
    check(catalog)
    return catalog


def check(catalog: Catalog) -> None:
    """Refuse a catalog that cannot be rendered.

    Raises:
        UserError: names all problems at once: files that do not exist, a motion module that does not fit the base,
            sizes and lengths that they cannot do, names that are doubled or no file names.
    """
    problems = [*_name_problems(catalog), *_missing_files(catalog)]
    try:
        motion = motion_modules.read(catalog.motion_module)
        factor = _vae_factor(catalog.base)
        _check_motion(catalog, motion)
        problems += _setting_problems(catalog, motion, factor)
    except UserError as error:
        problems.append(str(error))
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise UserError(f"the catalog has {count}: {'; '.join(problems)}")


def _name_problems(catalog: Catalog) -> Iterator[str]:
    names = [entry.name for entry in catalog.entries]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{names.count(name)} entries are named {name!r}: give each its own name"
    for name in names:
        if not _SAFE_NAME.fullmatch(name):
            yield f"entry {name!r}: use letters, digits, '.', '_' and '-' in the name"


def _missing_files(catalog: Catalog) -> Iterator[str]:
    for entry in catalog.entries:
        for uri in [entry.checkpoint, *(lora.path for lora in entry.loras)]:
            if uri is not None and not storage.exists(uri):
                yield f"entry {entry.name!r}: there is no file or folder {uri}"


def _setting_problems(catalog: Catalog, motion: MotionModules, factor: int) -> Iterator[str]:
    longest = motion.config.max_frames if motion.config.use_positions else None
    for entry in catalog.entries:
        settings = catalog.settings(entry)
        for side in ("width", "height"):
            pixels = getattr(settings, side)
            if pixels % factor:
                nearest = max(factor, round(pixels / factor) * factor)
                yield f"entry {entry.name!r}: {side} {pixels} is no multiple of {factor}, use {nearest}"
        if longest is not None and settings.num_frames > longest:
            yield f"entry {entry.name!r}: the motion module takes at most {longest} frames, not {settings.num_frames}"
        if settings.num_inference_steps > catalog.noise_schedule.num_train_timesteps:
            yield f"entry {entry.name!r}: more steps than the noise schedule has"


def _check_motion(catalog: Catalog, motion: MotionModules) -> None:
    """Compare shapes with fresh motion modules for the base, without allocating either."""
    folder = base.resolve(catalog.base)
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
            fitting = MotionUNet(unet, motion.config).motion.state_dict()
    except (OSError, ValueError) as error:
        raise UserError(f"base {catalog.base} cannot take motion modules: {' '.join(str(error).split())}") from error
    if {n: t.shape for n, t in motion.state_dict().items()} != {n: t.shape for n, t in fitting.items()}:
        raise UserError(f"motion module {catalog.motion_module} was made for another architecture than {catalog.base}")


def _vae_factor(base_uri: str) -> int:
    """Pixels a side that one latent covers."""
    try:
        config = AutoencoderKL.load_config(base.resolve(base_uri), subfolder="vae")
    except OSError as error:
        raise UserError(f"base {base_uri} has no VAE: {' '.join(str(error).split())}") from error
    return int(2 ** (len(config["block_out_channels"]) - 1))


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
        "noise_schedule": catalog.noise_schedule.model_dump(),
    }
    items: list[Item] = []
    for entry in catalog.entries:
        weights = {
            "checkpoint": entry.checkpoint and content_hash(entry.checkpoint),
            "loras": [(content_hash(lora.path), lora.scale) for lora in entry.loras],
        }
        items += _entry_items(catalog, entry, shared | weights)
    return items


def _entry_items(catalog: Catalog, entry: Entry, weights: dict[str, object]) -> Iterator[Item]:
    settings = catalog.settings(entry)
    for prompt in entry.prompts:
        for seed in settings.seeds:
            values = settings.model_dump(exclude={"seeds"}) | {"prompt": prompt, "seed": seed}
            digest = hashlib.sha256(json.dumps(weights | values, sort_keys=True).encode()).hexdigest()
            yield Item(**values, entry=entry.name, digest=digest)
