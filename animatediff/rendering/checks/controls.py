"""What controls and image prompts cannot do: found in names, shapes and numbers before anything is rendered."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from diffusers import UNet2DConditionModel

from animatediff import storage
from animatediff.errors import UserError
from animatediff.models.control.sparse_control import PUBLISHED_MOTION
from animatediff.rendering.catalog.controls import NOT_KEPT, ControlSpec, ImageSpec
from animatediff.rendering.catalog.picture_uris import picture_uris
from animatediff.rendering.checks.files import FileInField, check_files
from animatediff.rendering.conditions.preprocessing import find_preprocessor
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.controls import image_encoder_folder, ip_adapter_file, network_file, sparse_control_file
from animatediff.weights.controls.network_file import NetworkKind

FIELDS = ("controls", "images", "image_encoder", "num_frames", "context")
"""Fields of `RenderSettings` that are looked at."""


class ControlChecks:
    """Checks of one catalog's controls: each file is looked at once."""

    def __init__(self) -> None:
        self._net = cache(_net)
        self._adapter = cache(_adapter_problem)
        self._encoder = cache(_encoder_problem)
        self._num_pictures = cache(lambda pictures: len(picture_uris(pictures)))

    def problems(self, base: str, settings: Mapping[str, Any]) -> Iterator[str]:
        """Yield why no clip can be made with the controls and images of these settings.

        Args:
            base: URI of a base with which all is well.
            settings: fields of `RenderSettings`.
        """
        for number, control in enumerate(settings["controls"]):
            for problem in self._control_problems(base, control, settings):
                yield f"controls.{number}: {problem}"
        for number, image in enumerate(settings["images"]):
            for problem in self._image_problems(base, image, settings):
                yield f"images.{number}: {problem}"

    def _control_problems(self, base: str, spec: ControlSpec, settings: Mapping[str, Any]) -> Iterator[str]:
        kind, problem = self._net(base, spec.net)
        if problem:
            yield problem
        is_sparse, num_frames = kind == "sparse_control", settings["num_frames"]
        try:
            find_preprocessor(spec.preprocess)
            if spec.pictures and kind:
                spec.frames_of(self._num_pictures(spec.pictures), num_frames, is_sparse=is_sparse)
            spec.scales(num_frames)
        except (UserError, ValueError) as error:
            yield str(error)
        if is_sparse:
            yield from _sparse_problems(spec, settings)
        if kind and spec.keep and not (is_sparse and sparse_control_file.open_file(spec.net).variant == "rgb"):
            yield NOT_KEPT

    def _image_problems(self, base: str, spec: ImageSpec, settings: Mapping[str, Any]) -> Iterator[str]:
        encoder = settings["image_encoder"]
        if encoder is None:
            yield "an IP-Adapter reads pictures by CLIP: name the folder of its vision model as `image_encoder`"
        elif problem := self._adapter(base, spec.adapter) or self._encoder(encoder, spec.adapter):
            yield problem
        try:
            spec.frames_of(self._num_pictures(spec.pictures), settings["num_frames"])
        except (UserError, ValueError) as error:
            yield str(error)


def _net(base: str, uri: str) -> tuple[NetworkKind | None, str | None]:
    """Return what a network is, where that can be told without fetching it, and what is wrong with it."""
    if problem := _file_problem(base, uri, "controls"):
        return None, problem
    if not storage.is_local(uri):
        return None, None
    try:
        return network_file.check_fits(uri, BaseFacts(base).unet, base), None
    except UserError as error:
        return None, str(error)


def _adapter_problem(base: str, uri: str) -> str | None:
    if (problem := _file_problem(base, uri, "images")) or not storage.is_local(uri):
        return problem
    try:
        unet = build_on_meta(UNet2DConditionModel, BaseFacts(base).unet, f"the config of the unet of base {base}")
        ip_adapter_file.check_fits(ip_adapter_file.open_file(uri), unet, base)
    except UserError as error:
        return str(error)
    return None


def _encoder_problem(encoder: str, adapter: str) -> str | None:
    if not storage.is_local(encoder):
        return None if storage.exists(encoder) else f"there is no folder {encoder}"
    try:
        found = image_encoder_folder.open_folder(encoder)
        if storage.is_local(adapter):
            ip_adapter_file.open_file(adapter).check_encoder(found)
    except UserError as error:
        return str(error)
    return None


def _file_problem(base: str, uri: str, field: str) -> str | None:
    given = FileInField(uri, field, BaseFacts(base).architecture)
    return check_files([given]).get(given)


def _sparse_problems(spec: ControlSpec, settings: Mapping[str, Any]) -> Iterator[str]:
    if spec.guess_mode or spec.global_pool_conditions:
        name = "guess_mode" if spec.guess_mode else "global_pool_conditions"
        yield f"{name} is of ControlNets, and this is a SparseCtrl encoder: leave it away"
    context, num_frames, longest = settings["context"], settings["num_frames"], PUBLISHED_MOTION.max_frames
    window = min(num_frames, context.length) if context else num_frames
    if window > longest:
        yield f"a SparseCtrl encoder sees at most {longest} frames at a time, not {window}: set a `context` of fewer"
