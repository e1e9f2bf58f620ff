"""What a base and a motion module cannot do: found in their configs, names and shapes before anything is rendered."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.errors import UserError, any_error_as_user_error, errors_with_field
from animatediff.models.text_encoder import check_clip_skip
from animatediff.rendering.catalog.catalog import EntryIndex
from animatediff.rendering.catalog.entries import Lora, ModelFiles
from animatediff.rendering.catalog.named_files import named_files
from animatediff.rendering.checks import second_order
from animatediff.rendering.checks.base import check_parts
from animatediff.rendering.checks.few_step import Distilled, distilled, distilled_by_loras, mismatch
from animatediff.weights import motion_modules
from animatediff.weights.base_facts import BaseFacts, check_channels, check_kind, check_prediction, find_architecture
from animatediff.weights.layouts.architectures import KnownBase
from animatediff.weights.lora import lora_file
from animatediff.weights.motion_modules import MotionFile
from animatediff.weights.motion_schedule import MotionSchedule, schedule_of, with_overrides
from animatediff.weights.prediction import Prediction, check_agrees

logger = logging.getLogger(__name__)

CHECKED_SETTINGS = (
    *("width", "height", "num_frames", "context"),
    *("sampler", "timestep_spacing", "num_inference_steps", "guidance_scale", "clip_skip"),
    *("guidance_interval", "guidance_every", "deep_cache"),
    *("free_init", "second_pass", "pia", "loop"),
)
"""Fields of `RenderSettings` that base and motion module have a say in."""


class _Pair(NamedTuple):
    """A motion module and a base that fit."""

    motion: MotionFile
    distilled: Distilled | None
    schedule: MotionSchedule
    base: BaseFacts


class _Findings(NamedTuple):
    """What is to be said of settings."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ModelChecks:
    """Checks of one catalog's bases and motion modules: each pair is looked at once, each warning is told once.

    Args:
        predictions: what the checkpoints say that they predict, by URI.

    Attributes:
        warnings: what `settings` found that spoils pictures and keeps none from being made, with the places of it.
    """

    def __init__(self, predictions: Mapping[str | None, Prediction | None]) -> None:
        self.warnings: dict[str, list[EntryIndex]] = {}
        self._predictions, self._told = predictions, set[Prediction | None]()
        self._facts = cache(BaseFacts)
        self._pair = cache(self._found_pair)
        self._settings = cache(self._setting_problems)
        self._schedule = cache(self._found_schedule)
        self._warn = cache(logger.warning)
        self._has_mid_block = cache(_has_mid_block)
        self._distilled_by_loras = cache(distilled_by_loras)

    def architecture(self, base: str | None) -> KnownBase | None:
        """Return what files must be for that go with a base; None where there is none, or `model` has a problem."""
        return None if base is None else find_architecture(self._facts(base))

    def model(self, model: ModelFiles) -> str | None:
        """Return why no clip can be made with the model's base and motion module; None where one can."""
        pair, schedule = self._pair(model.base, model.motion_module), self._schedule_of(model)
        if isinstance(pair, str):
            return pair
        if isinstance(schedule, str):
            return schedule
        for file in named_files(model) if not pair.motion.config.use_mid_block else ():
            if file.slot.family == "motion_lora" and self._has_mid_block(file.uri):
                self._warn(
                    "%s is for v2; what it changes in the middle block, which the motion module has not, is left out",
                    file.uri,
                )
        return None

    def settings(self, place: EntryIndex, model: ModelFiles, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return why no clip can be made with a place's settings; nothing where `model` has a problem already."""
        values = (settings[name] for name in CHECKED_SETTINGS)
        schedule = self._schedule_of(model)
        found = self._settings(model.base, model.motion_module, model.motion_loras, schedule, *values)
        for text in found.warnings:
            self.warnings.setdefault(text, []).append(place)
        return found.problems

    def _schedule_of(self, model: ModelFiles) -> NoiseSchedule | str | None:
        """Return the noise schedule of a model, or why it has none; None where base and motion module do not fit."""
        return self._schedule(model.base, model.motion_module, model.noise_schedule, model.checkpoint)

    def _found_schedule(
        self, base: str, motion_module: str, overrides: NoiseScheduleOverrides | None, checkpoint: str | None
    ) -> NoiseSchedule | str | None:
        pair, said = self._pair(base, motion_module), self._predictions.get(checkpoint)
        if isinstance(pair, str):
            return None
        inherited = pair.schedule.on(pair.base, said)
        try:
            with errors_with_field("noise_schedule"):
                schedule = with_overrides(inherited, overrides)
            if checkpoint is None:
                check_prediction(pair.base, schedule.prediction_type)
            else:
                check_agrees(checkpoint, said, schedule.prediction_type)
        except UserError as error:
            return str(error)
        # What is predicted is the UNet's matter.
        of_unet = {"prediction_type", "zero_terminal_snr"}
        if pair.motion.schedule and schedule.model_dump(exclude=of_unet) != inherited.model_dump(exclude=of_unet):
            self._warn(
                "noise_schedule is not the one that %s was trained with: expect grey or noisy pictures, or leave it "
                "out",
                motion_module,
            )
        elif overrides is None and schedule != pair.schedule.schedule:
            self._tell_prediction(said or pair.base.prediction, checkpoint if said else None, base)
        return schedule

    def _tell_prediction(self, said: Prediction | None, checkpoint: str | None, base: str) -> None:
        if said not in self._told:
            self._told.add(said)
            name = f"base {base}" if checkpoint is None else f"checkpoint {checkpoint}"
            logger.info(
                "%s predicts %s, as it says: it is sampled so, as is every model that says the same", name, said
            )

    def _found_pair(self, base: str, motion_module: str) -> _Pair | str:
        try:
            return self._checked_pair(base, motion_module)
        except UserError as error:
            return str(error)

    def _checked_pair(self, base: str, motion_module: str) -> _Pair:
        with any_error_as_user_error(f"base {base} with motion_module {motion_module}"):
            with errors_with_field("motion_module"):
                motion = motion_modules.open_file(motion_module)
                schedule = schedule_of(motion)
            facts = self._facts(base)
            check_kind(facts)
            check_channels(facts)
            check_parts(facts)
            motion_modules.check_fits(motion, facts.unet, base)
            distillation = distilled(motion)
        return _Pair(motion, distillation, schedule, facts)

    def _setting_problems(
        self,
        base: str,
        motion_module: str,
        motion_loras: tuple[Lora, ...],
        schedule: NoiseSchedule | str | None,
        *values: Any,
    ) -> _Findings:
        pair = self._pair(base, motion_module)
        if isinstance(pair, str) or not isinstance(schedule, NoiseSchedule):
            return _Findings()
        settings = dict(zip(CHECKED_SETTINGS, values, strict=True))
        few_step = [*([pair.distilled] if pair.distilled else []), *self._distilled_by_loras(motion_loras)]
        if few_step:
            pair = pair._replace(distilled=few_step[0])
        warnings = (
            *_few_step_warnings(motion_module, few_step, settings),
            *second_order.warnings(settings),
            *_size_warnings(base, pair, settings),
        )
        problems = (
            *_size_problems(settings, pair.base),
            *_length_problems(settings, pair.motion),
            *_sampler_problems(settings, schedule),
            *_reuse_problems(settings, pair),
            *_text_problems(settings, pair.base),
            *_free_init_problems(settings, schedule),
            *_picture_problems(settings, pair.motion),
        )
        return _Findings(problems, warnings)


def _few_step_warnings(motion_module: str, found: Sequence[Distilled], settings: Mapping[str, Any]) -> Iterator[str]:
    if found and (wanted := mismatch(found[0], settings)):
        yield f"{motion_module} is {found[0].what}: its pictures need {wanted}"
    if len(found) > 1:
        both = " and ".join(each.what for each in found)
        yield f"{motion_module} is {both}, of which each alone makes few steps of many: name one"


def _size_warnings(base: str, pair: _Pair, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield that clips have less than half the pixels that SDXL was made for; Hotshot-XL is for smaller ones."""
    if pair.base.architecture != "sdxl" or pair.motion.version == "hotshotxl":
        return
    side = pair.base.trained_side
    if settings["width"] * settings["height"] < side**2 / 2:
        yield (
            f"base {base} is an SDXL model, for pictures of about {side} x {side} pixels: expect poor ones of "
            f"{settings['width']} x {settings['height']}, or set width and height"
        )


def _size_problems(settings: Mapping[str, Any], base: BaseFacts) -> Iterator[str]:
    second = settings["second_pass"]
    for side in ("width", "height"):
        if (problem := base.size_problem(side, settings[side])) or (
            second
            and (
                problem := base.size_problem(
                    f"second_pass.scale {second.scale:g}: {side}", second.enlarged(settings[side])
                )
            )
        ):
            yield problem


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
        with any_error_as_user_error(f"sampler {settings['sampler']} cannot be used with the noise schedule"):
            sampler = SAMPLERS[settings["sampler"]](schedule, settings["timestep_spacing"])
            sampler.begin(settings["num_inference_steps"])
            if second := settings["second_pass"]:
                sampler.begin(second.num_inference_steps or settings["num_inference_steps"])
    except UserError as error:
        yield str(error)


def _reuse_problems(settings: Mapping[str, Any], pair: _Pair) -> Iterator[str]:
    deep = settings["deep_cache"]
    for field, is_set in (("deep_cache", deep is not None), ("guidance_every", settings["guidance_every"] > 1)):
        if is_set and pair.distilled:
            yield (
                f"{field} takes from one step what another found, and motion module {pair.motion.uri} is "
                f"{pair.distilled.what}, each of whose few steps finds much that is new: leave {field} away"
            )
    if deep and deep.layers >= pair.base.num_decoder_layers:
        yield (
            f"deep_cache.layers {deep.layers}: the base's decoder has {pair.base.num_decoder_layers} layers, of which "
            "deep_cache is to spare some: set fewer"
        )


def _text_problems(settings: Mapping[str, Any], base: BaseFacts) -> Iterator[str]:
    try:
        check_clip_skip(settings["clip_skip"], base.text_layers, is_xl=base.architecture == "sdxl")
    except UserError as error:
        yield str(error)


def _free_init_problems(settings: Mapping[str, Any], schedule: NoiseSchedule) -> Iterator[str]:
    if settings["free_init"] and schedule.zero_terminal_snr:
        yield (
            "free_init keeps what of a clip is left at the last timestep, and the noise schedule leaves nothing there "
            "(zero_terminal_snr): leave free_init away"
        )


def _picture_problems(settings: Mapping[str, Any], motion: MotionFile) -> Iterator[str]:
    spec, reads_picture = settings["pia"], motion.first_convolution is not None
    if reads_picture and spec is None:
        yield f"motion module {motion.uri} is PIA's, which animates a picture: name it, as `pia: {{picture: ...}}`"
    elif spec is not None and not reads_picture:
        yield (
            f"pia is of PIA's motion module, and {motion.uri} is not: leave pia away, and show this one a picture "
            "as `init_image`, or by a SparseCtrl encoder in `controls`"
        )
    elif spec is not None:
        try:
            spec.similarities(settings["num_frames"], loop=settings["loop"])
        except ValueError as error:
            yield f"pia: {error}"


def _has_mid_block(uri: str) -> bool:
    try:
        return any("mid_block" in name for name in lora_file.open_lora(uri).tensors)
    except UserError:  # told where files are checked, or by the items
        return False
