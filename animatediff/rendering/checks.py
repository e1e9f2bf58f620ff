"""What can be found wrong with a catalog before anything is rendered."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from animatediff import storage
from animatediff.config import load
from animatediff.errors import UserError
from animatediff.rendering.catalog import Catalog, Entry, schedule_of, token_of
from animatediff.weights import lora, motion_modules
from animatediff.weights.base import load_config
from animatediff.weights.files import local_copy
from animatediff.weights.identify import expect
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.tensors import TensorFile, open_tensors
from animatediff.weights.text import uses

logger = logging.getLogger(__name__)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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

    A file that is there but cannot be read is no reason: its entry's items fail with it, and the others are rendered.

    Raises:
        UserError: names all problems at once: files that do not exist, or are of another family or for another base
            than they are given as; a motion module that does not fit the base; sizes and lengths that they cannot do;
            embeddings that no prompt uses; names that are doubled or no file names.
    """
    problems = list(_name_problems(catalog))
    for entry in catalog.entries:
        problems += (f"entry {entry.name!r}: {problem}" for problem in _file_problems(entry))
    try:
        problems += _model_problems(catalog)
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


def _file_problems(entry: Entry) -> Iterator[str]:
    for uri, open_file, check_file in _files(entry):
        if not storage.exists(uri):
            yield f"there is no file or folder {uri}"
            continue
        try:
            file = open_file(uri)
        except UserError:  # a broken file fails its own items only
            continue
        try:
            if file is not None:
                check_file(file)
        except UserError as error:
            yield str(error)


def _files(entry: Entry) -> Iterator[tuple[str, Callable[[str], TensorFile | None], Callable[[TensorFile], object]]]:
    """An entry's files, each with what opens it and what checks that it is of the kind that it is given as."""
    if entry.checkpoint is not None:
        yield entry.checkpoint, _open_checkpoint, partial(expect, families={"checkpoint", "vae"}, base="sd1")
    for file in entry.additions():
        yield file.uri, lora.open_file, partial(lora.check_kind, family=file.family, base="sd1")
    for embedding in entry.embeddings:
        yield embedding.path, open_tensors, partial(expect, families={"textual_inversion"}, base="sd1")


def _open_checkpoint(uri: str) -> TensorFile | None:
    """A folder's parts say themselves what they are."""
    return None if local_copy(uri).is_dir() else open_tensors(uri)


def _model_problems(catalog: Catalog) -> Iterator[str]:
    """What base and motion module cannot do.

    Raises:
        UserError: they cannot be read, or do not fit.
    """
    motion = motion_modules.open_file(catalog.motion_module)
    unet, vae = load_config(catalog.base, "unet"), load_config(catalog.base, "vae")
    if unet.get("addition_embed_type") == "text_time":
        raise UserError(f"base {catalog.base} is an SDXL model; clips are rendered with SD 1.x bases only")
    motion_modules.check_fits(motion, unet, catalog.base)
    if not motion.config.use_mid_block:
        _warn_of_mid_blocks(catalog)
    _warn_of_schedule(catalog, motion)
    for entry in catalog.entries:
        problems = [*_setting_problems(catalog, entry, motion, vae), *_unused_embeddings(catalog, entry)]
        yield from (f"entry {entry.name!r}: {problem}" for problem in problems)


def _warn_of_mid_blocks(catalog: Catalog) -> None:
    for uri in sorted({file.path for entry in catalog.entries for file in entry.motion_loras}):
        with suppress(UserError):
            if any("mid_block" in name for name in lora.open_file(uri).tensors):
                logger.warning(
                    "%s is for v2; what it changes in the middle block, which the motion module has not, is left out",
                    uri,
                )


def _warn_of_schedule(catalog: Catalog, motion: MotionFile) -> None:
    if catalog.noise_schedule and motion.schedule and catalog.noise_schedule != schedule_of(motion.uri):
        logger.warning(
            "noise_schedule is not the one that %s was trained with: expect grey or noisy pictures, or leave it out",
            motion.uri,
        )


def _setting_problems(catalog: Catalog, entry: Entry, motion: MotionFile, vae: dict[str, Any]) -> Iterator[str]:
    settings = catalog.settings(entry)
    factor = 2 ** (len(vae["block_out_channels"]) - 1)  # pixels a side that one latent covers
    for side in ("width", "height"):
        pixels = getattr(settings, side)
        if pixels % factor:
            nearest = max(factor, round(pixels / factor) * factor)
            yield f"{side} {pixels} is no multiple of {factor}, use {nearest}"
    longest = motion.config.max_frames if motion.config.use_positions else None
    if longest is not None and settings.num_frames > longest:
        yield f"the motion module takes at most {longest} frames, not {settings.num_frames}"
    schedule = catalog.noise_schedule or schedule_of(motion.uri)
    if settings.num_inference_steps > schedule.num_train_timesteps:
        yield "more steps than the noise schedule has"


def _unused_embeddings(catalog: Catalog, entry: Entry) -> Iterator[str]:
    prompts = [*entry.prompts, catalog.settings(entry).negative_prompt]
    for file in entry.embeddings:
        token = token_of(file)
        if token is not None and not any(uses(prompt, token) for prompt in prompts):
            yield f"no prompt uses the embedding {file.path}: write {token!r} where it belongs"
