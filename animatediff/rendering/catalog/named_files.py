"""The weights files that an entry or a model names, slot by slot."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from animatediff.config import Config
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS, WeightsSlot
from animatediff.weights.layouts.families import is_lora
from animatediff.weights.resident import ScaledLora

NamingT = TypeVar("NamingT", bound=Config)


class NamedFile(NamedTuple):
    """A weights file as a slot names it."""

    slot: WeightsSlot
    uri: str
    scale: float = 1.0
    """What a low-rank file is multiplied by, in a slot that has a scale."""
    token: str | None = None
    """The word that an embedding is given, where it is given one."""


def named_files(config: Config) -> Iterator[NamedFile]:
    """Yield the files that a config names in the fields of `WEIGHTS_SLOTS` that it has, in the slots' order."""
    for field, slot in WEIGHTS_SLOTS.items():
        value = getattr(config, field, None)
        if value is None or value == ():  # most of most entries
            continue
        for file in value if slot.is_list else (value,):
            if isinstance(file, str):
                yield NamedFile(slot, file)
            else:
                scale = file.scale if slot.has_scale else 1.0
                yield NamedFile(slot, getattr(file, slot.uri_field), scale, getattr(file, "token", None))


def scaled_loras(config: Config) -> list[ScaledLora]:
    """Return the low-rank files that a config names, as they are added to weights."""
    return [
        ScaledLora(file.uri, file.scale, file.slot.family) for file in named_files(config) if is_lora(file.slot.family)
    ]


def with_uris(config: NamingT, change: Callable[[str], str]) -> NamingT:
    """Return the config with other URIs in the place of those that it names.

    Args:
        config: an entry, or whatever else has fields of `WEIGHTS_SLOTS`.
        change: a URI to the one to name instead, or to itself. A base's stays.
    """

    def changed(slot: WeightsSlot, file: Any) -> Any:
        if isinstance(file, str):
            return change(file)
        return file.model_copy(update={slot.uri_field: change(getattr(file, slot.uri_field))})

    update = {}
    for slot in dict.fromkeys(file.slot for file in named_files(config)):
        value = getattr(config, slot.field)
        if slot.role != "base":
            update[slot.field] = tuple(changed(slot, each) for each in value) if slot.is_list else changed(slot, value)
    return config.model_copy(update=update)
