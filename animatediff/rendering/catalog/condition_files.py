"""The files that settings name: where they are, and what digests tell of them, which is their content."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from animatediff.config import Config
from animatediff.errors import UserError
from animatediff.rendering.catalog.canonical_json import sha256
from animatediff.rendering.catalog.controls import ControlSpec, ImageSpec
from animatediff.rendering.catalog.picture_uris import picture_uris
from animatediff.weights.controls.image_encoder_place import find_folder

_FILE_FIELDS = ("init_image", "init_video")
_LISTS = ("controls", "images")


class ConditionFile(NamedTuple):
    """A picture or a video that settings name, or a folder of pictures."""

    field: str
    """Where it is named, such as `controls.0.video`."""
    uri: str
    may_be_folder: bool = False
    """Whether a folder of pictures can stand in its place."""
    is_video: bool = False
    """Whether it is to be a video."""


def condition_files(settings: Mapping[str, Any]) -> Iterator[ConditionFile]:
    """Yield the pictures and videos that settings name, and folders of pictures.

    Args:
        settings: fields of `RenderSettings`.
    """
    yield from (
        ConditionFile(name, settings[name], is_video=name == "init_video")
        for name in _FILE_FIELDS
        if settings[name] is not None
    )
    if settings["pia"] is not None:
        yield ConditionFile("pia.picture", settings["pia"].picture)
    for field in _LISTS:
        for number, spec in enumerate(settings[field]):
            where = f"{field}.{number}"
            yield from (ConditionFile(f"{where}.pictures", uri, len(spec.pictures) == 1) for uri in spec.pictures)
            name = "video" if isinstance(spec, ControlSpec) else "mask"
            if (uri := getattr(spec, name)) is not None:
                yield ConditionFile(f"{where}.{name}", uri, is_video=name == "video")


def network_hashes(settings: Mapping[str, Any], content: Callable[[str], str]) -> dict[str, str]:
    """Return the SHA-256 of each of `network_files`, by its URI.

    Args:
        settings: fields of `RenderSettings`.
        content: the SHA-256 of what lies at a URI.
    """
    encoder = settings["image_encoder"]
    return {uri: content(_encoder_folder(uri) if uri == encoder else uri) for uri in network_files(settings)}


def network_files(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URIs of the networks that settings name, and of the image encoder's folder.

    Args:
        settings: fields of `RenderSettings`.
    """
    yield from (spec.net for spec in settings["controls"])
    yield from (spec.adapter for spec in settings["images"])
    if settings["images"] and settings["image_encoder"]:
        yield settings["image_encoder"]


def files_in_digest(all_settings: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the URIs of all files whose content digests tell: of a folder of pictures, each picture.

    Args:
        all_settings: fields of `RenderSettings`, of any number of prompts, most of which name the same files.
    """
    pictures: dict[tuple[str, ...], None] = {}
    files: dict[str, None] = {}
    encoders: dict[str, None] = {}
    for settings in all_settings:
        for spec in (*settings["controls"], *settings["images"]):
            pictures[spec.pictures] = None
            files[spec.net if isinstance(spec, ControlSpec) else spec.adapter] = None
        for file in condition_files(settings):
            if not file.field.endswith(".pictures"):
                files[file.uri] = None
        if settings["images"] and settings["image_encoder"]:
            encoders[settings["image_encoder"]] = None
    yield from files
    for named in pictures:
        yield from _pictures_in(named)
    yield from map(_encoder_folder, encoders)


class SettingsWithFileHashes:
    """Puts hashes in the place of the files that settings name; each folder of pictures is listed once.

    Args:
        content: the SHA-256 of what lies at a URI.
    """

    def __init__(self, content: Callable[[str], str]) -> None:
        self._content = content
        # One hash of all, as there may be thousands, in the settings of as many items.
        self._encoder = cache(lambda uri: content(_encoder_folder(uri)))
        self._pictures = cache(lambda uris: sha256({"pictures": [content(uri) for uri in _pictures_in(uris)]}))

    def __call__(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as JSON can say them, without names of files.

        Args:
            settings: some fields of `RenderSettings`.
        """
        plain = {name: value.model_dump() if isinstance(value, Config) else value for name, value in settings.items()}
        for name in _FILE_FIELDS:
            if plain.get(name) is not None:
                plain[name] = self._content(settings[name])
        if "pia" in plain:
            plain["pia"]["picture"] = self._content(settings["pia"].picture)
        for name in _LISTS:
            if name in plain:
                plain[name] = [self._spec(spec) for spec in settings[name]]
        if "image_encoder" in plain:
            del plain["image_encoder"]  # what no image is read with decides nothing
            if settings.get("images"):
                plain["image_encoder"] = self._encoder(settings["image_encoder"])
        return plain

    def _spec(self, spec: ControlSpec | ImageSpec) -> dict[str, Any]:
        # What has its default is left out, so that a field that is added later changes no digest.
        plain = spec.model_dump(exclude_defaults=True)
        for name in ("net", "adapter", "video", "mask"):
            if plain.get(name) is not None:
                plain[name] = self._content(getattr(spec, name))
        if spec.pictures:
            plain["pictures"] = self._pictures(spec.pictures)
        return plain


def _pictures_in(named: tuple[str, ...]) -> Iterable[str]:
    try:
        return picture_uris(named)
    except UserError:  # told where files are checked; until then it counts by its name
        return named


def _encoder_folder(uri: str) -> str:
    """Return where the encoder itself is: a repository around it may hold gigabytes that nothing reads."""
    try:
        return find_folder(uri)
    except UserError:
        return uri
