"""The files that settings name: where they are, and what digests tell of them, which is their content."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from animatediff.config import Config
from animatediff.errors import UserError
from animatediff.rendering.catalog.controls import ControlSpec, ImageSpec
from animatediff.rendering.catalog.picture_uris import picture_uris
from animatediff.weights.controls.image_encoder_place import find_folder

_FILE_FIELDS = ("init_image", "init_video")
_LISTS = ("controls", "images")


def condition_files(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URIs of the pictures and videos that settings name, and of folders of pictures.

    Args:
        settings: fields of `RenderSettings`.
    """
    yield from (settings[name] for name in _FILE_FIELDS if settings[name] is not None)
    for spec in (*settings["controls"], *settings["images"]):
        yield from spec.pictures
        one = spec.video if isinstance(spec, ControlSpec) else spec.mask
        if one is not None:
            yield one


def hashed_files(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the URIs of all files whose content digests tell: of a folder of pictures, each picture.

    Args:
        settings: fields of `RenderSettings`.
    """
    for uri in condition_files(settings):
        yield from _pictures_in((uri,))
    yield from (spec.net for spec in settings["controls"])
    yield from (spec.adapter for spec in settings["images"])
    if settings["images"] and settings["image_encoder"]:
        yield _encoder_folder(settings["image_encoder"])


def settings_by_content(settings: Mapping[str, Any], content: Callable[[str], str]) -> dict[str, Any]:
    """Return settings as JSON can say them, with hashes in the place of the files' URIs.

    Args:
        settings: some fields of `RenderSettings`.
        content: the SHA-256 of what lies at a URI.
    """
    plain = {name: value.model_dump() if isinstance(value, Config) else value for name, value in settings.items()}
    for name in _FILE_FIELDS:
        if plain.get(name) is not None:
            plain[name] = content(settings[name])
    for name in _LISTS:
        if name in plain:
            plain[name] = [_by_content(spec, content) for spec in settings[name]]
    if "image_encoder" in plain:
        del plain["image_encoder"]  # what no image is read with decides nothing
        if settings.get("images"):
            plain["image_encoder"] = content(_encoder_folder(settings["image_encoder"]))
    return plain


def _by_content(spec: ControlSpec | ImageSpec, content: Callable[[str], str]) -> dict[str, Any]:
    # What has its default is left out, so that a field that is added later changes no digest.
    plain = spec.model_dump(exclude_defaults=True)
    for name in ("net", "adapter", "video", "mask"):
        if plain.get(name) is not None:
            plain[name] = content(getattr(spec, name))
    if spec.pictures:
        plain["pictures"] = [content(uri) for uri in _pictures_in(spec.pictures)]
    return plain


def _encoder_folder(uri: str) -> str:
    """Return where the encoder itself is: a repository around it may hold gigabytes that nothing reads."""
    try:
        return find_folder(uri)
    except UserError:
        return uri


def _pictures_in(named: Sequence[str]) -> Sequence[str]:
    try:
        return picture_uris(named)
    except UserError:  # told where files are checked; until then it counts by its name
        return named
