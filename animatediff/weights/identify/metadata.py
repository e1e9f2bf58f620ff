"""What a weights file says of itself, in the words of the programs that write such files."""

import json
from collections.abc import Mapping

from animatediff.weights.reading.tensors import TensorFile

_MAX_LENGTH = 200

# Fields of the ModelSpec standard, of kohya's trainer (`ss_`), of A1111's embeddings, and of people who write by hand.
_FIELDS: dict[str, tuple[str, ...]] = {
    "title": ("modelspec.title", "ss_output_name", "title", "name"),
    "author": ("modelspec.author", "author"),
    "licence": ("modelspec.license", "license", "licence"),
    "trigger words": ("modelspec.trigger_phrase", "ss_trigger_words", "trigger_words", "trigger_phrase"),
    "description": ("modelspec.description", "description"),
    "made for": ("modelspec.architecture", "ss_base_model_version"),
    "trained on": ("ss_sd_model_name", "sd_checkpoint_name", "base_model"),
    "prediction": ("modelspec.prediction_type",),
    "network": ("ss_network_module",),
    "network dim": ("ss_network_dim",),
    "network alpha": ("ss_network_alpha",),
    "clip skip": ("ss_clip_skip",),
}


def read_metadata(file: TensorFile) -> dict[str, str]:
    """Return the fields that a user looks for, each on one printable line of at most 200 characters.

    Empty ones left out.
    """
    said = {name: str(value) for name, value in file.values.items()} | dict(file.metadata)
    found = {label: _first(said, fields) for label, fields in _FIELDS.items()}
    return {label: text for label, text in found.items() if text}


def printable(text: str, max_length: int = _MAX_LENGTH) -> str:
    """Return a text as one line without control characters: a file's words may be meant to fool a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * max_length]).split())
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."


def _first(said: Mapping[str, str], fields: tuple[str, ...]) -> str:
    texts = (printable(_decoded(said.get(field, ""))) for field in fields)
    return next((text for text in texts if text and text not in ("None", "null")), "")


def _decoded(text: str) -> str:
    """Return the text of a value, which some programs write as JSON."""
    if not text.startswith(('"', "[")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
