"""What a base and a motion module cannot do: found in their configs, names and shapes before anything is rendered."""

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import begin, make_scheduler
from animatediff.errors import UserError, naming, refusing
from animatediff.rendering.catalog.entries import Model
from animatediff.rendering.checks.base import check_parts, num_text_layers
from animatediff.rendering.checks.few_step import Distilled, distilled, mismatch
from animatediff.weights import motion_modules
from animatediff.weights.base import load_config, prediction_type
from animatediff.weights.identify.base import TEXT_WIDTHS
from animatediff.weights.identify.messages import model_name
from animatediff.weights.identify.model import UNUSUAL_INPUTS
from animatediff.weights.layouts.families import Base
from animatediff.weights.lora import read as lora
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.motion_schedule import read_schedule
from animatediff.weights.text import check_clip_skip

logger = logging.getLogger(__name__)

CHECKED_SETTINGS = (
    *("width", "height", "num_frames", "context"),
    *("sampler", "timestep_spacing", "num_inference_steps", "guidance_scale", "clip_skip"),
)
"""Fields of `Settings` that base and motion module have a say in."""


class _Pair(NamedTuple):
    """A motion module and a base that fit."""

    motion: MotionFile
    distilled: Distilled | None
    schedule: NoiseSchedule
    latent_factor: int
    """Pixels a side that one latent covers."""
    text_layers: int
    """Of the base's text encoder."""


class ModelChecks:
    """Checks of one catalog's bases and motion modules: each pair is looked at once, each warning is told once.

    Args:
        schedule: the catalog's noise schedule.
    """

    def __init__(self, schedule: NoiseSchedule | None) -> None:
        self._schedule = schedule
        self._pair = cache(self._found_pair)
        self._settings = cache(self._setting_problems)
        self._warn = cache(logger.warning)
        self._has_mid_block = cache(_has_mid_block)

    def model(self, model: Model) -> str | None:
        """Why no clip can be made with the model's base and motion module."""
        pair = self._pair(model.base, model.motion_module)
        if isinstance(pair, str):
            return pair
        for file in model.motion_loras if not pair.motion.config.use_mid_block else ():
            if self._has_mid_block(file.path):
                self._warn(
                    "%s is for v2; what it changes in the middle block, which the motion module has not, is left out",
                    file.path,
                )
        return None

    def settings(self, model: Model, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Why no clip can be made with these settings; nothing where `model` has a problem already."""
        return self._settings(model.base, model.motion_module, *(settings[name] for name in CHECKED_SETTINGS))

    def _found_pair(self, base: str, motion_module: str) -> _Pair | str:
        try:
            return self._checked_pair(base, motion_module)
        except UserError as error:
            return str(error)

    def _checked_pair(self, base: str, motion_module: str) -> _Pair:
        with refusing(f"base {base} with motion_module {motion_module}"):
            with naming("motion_module"):
                motion, own = motion_modules.open_file(motion_module), read_schedule(motion_module)
            schedule = self._schedule or own
            unet, vae = load_config(base, "unet"), load_config(base, "vae")
            _check_base(base, unet, vae, schedule)
            check_parts(base)
            motion_modules.check_fits(motion, unet, base)
            text_layers = num_text_layers(base)
            distillation = distilled(motion)
        if self._schedule and motion.schedule and self._schedule != own:
            self._warn(
                "noise_schedule is not the one that %s was trained with: expect grey or noisy pictures, or leave it "
                "out",
                motion_module,
            )
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return _Pair(motion, distillation, schedule, factor, text_layers)

    def _setting_problems(self, base: str, motion_module: str, *values: Any) -> tuple[str, ...]:
        pair = self._pair(base, motion_module)
        if isinstance(pair, str):
            return ()
        settings = dict(zip(CHECKED_SETTINGS, values, strict=True))
        if pair.distilled and (wanted := mismatch(pair.distilled, settings)):
            self._warn("%s is an %s: its pictures need %s", motion_module, pair.distilled.family, wanted)
        return (
            *_size_problems(settings, pair.latent_factor),
            *_length_problems(settings, pair.motion),
            *_sampler_problems(settings, pair.schedule),
            *_text_problems(settings, pair.text_layers),
        )


def _check_base(base: str, unet: Mapping[str, Any], vae: Mapping[str, Any], schedule: NoiseSchedule) -> None:
    """Refuse a base of another kind, whose motion module may fit all the same.

    Args:
        base: its name in messages.
        unet: the config of its UNet.
        vae: the config of its VAE.
        schedule: what it is to be sampled with.

    Raises:
        UserError: the line says what it is, and what to take.
    """
    kind = _kind(unet)
    if kind not in (None, "sd1"):
        raise UserError(f"base {base} is {model_name(kind)}; clips are rendered with SD 1.x bases only")
    if not isinstance(vae.get("block_out_channels"), list | tuple):
        raise UserError(f"the VAE of base {base} has the class {vae.get('_class_name')}, an AutoencoderKL is needed")
    channels, latent_channels = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent_channels:
        use = f", as for {UNUSUAL_INPUTS[channels]}" if channels in UNUSUAL_INPUTS else ""
        raise UserError(
            f"the UNet of base {base} takes {channels} channels{use}, and its VAE's latents have {latent_channels}: "
            "take a text-to-image base"
        )
    predicted = prediction_type(base)
    if predicted not in ("epsilon", schedule.prediction_type):
        raise UserError(
            f"base {base} predicts {predicted}, and would be sampled as one that predicts {schedule.prediction_type}: "
            "take a base that predicts epsilon, or name the noise_schedule that the motion module was trained with"
        )


def _kind(unet: Mapping[str, Any]) -> Base | None:
    """Which model a UNet's config is of; None for the widths of no published one."""
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    width = unet.get("cross_attention_dim")
    return TEXT_WIDTHS.get(width) if isinstance(width, int) else None


def _size_problems(settings: Mapping[str, Any], factor: int) -> Iterator[str]:
    for side in ("width", "height"):
        pixels = settings[side]
        if pixels % factor:
            nearest = max(factor, round(pixels / factor) * factor)
            yield f"{side} {pixels} is no multiple of {factor}, use {nearest}"


def _length_problems(settings: Mapping[str, Any], motion: MotionFile) -> Iterator[str]:
    if not motion.config.use_positions:
        return
    longest, num_frames, context = motion.config.max_frames, settings["num_frames"], settings["context"]
    if context is None and num_frames > longest:
        yield f"the motion module takes at most {longest} frames, not {num_frames}: set `context` for longer clips"
    if context is not None and min(num_frames, context.length) > longest:
        yield f"the motion module takes at most {longest} frames, context.length {context.length} is more"


def _sampler_problems(settings: Mapping[str, Any], schedule: NoiseSchedule) -> Iterator[str]:
    try:
        with refusing(f"sampler {settings['sampler']} cannot be used with the noise schedule"):
            scheduler = make_scheduler(settings["sampler"], schedule, settings["timestep_spacing"])
            begin(scheduler, settings["num_inference_steps"], torch.device("cpu"))
    except UserError as error:
        yield str(error)


def _text_problems(settings: Mapping[str, Any], num_layers: int) -> Iterator[str]:
    try:
        check_clip_skip(settings["clip_skip"], num_layers)
    except UserError as error:
        yield str(error)


def _has_mid_block(uri: str) -> bool:
    try:
        return any("mid_block" in name for name in lora.open_file(uri).tensors)
    except UserError:  # told where files are checked, or by the items
        return False
