"""What a base's folder lacks: told from names and configs, with no weights read."""

from collections.abc import Sequence
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.base import check_part
from animatediff.weights.base_facts import BaseFacts, resolve
from animatediff.weights.reading.part_files import WEIGHTS_FILES

# Of each set of names one file is needed. The configs of UNet and VAE are read anyway.
_NEEDED: list[tuple[str, Sequence[str]]] = [
    ("unet", WEIGHTS_FILES),
    ("vae", WEIGHTS_FILES),
    ("text_encoder", ["config.json"]),
    ("text_encoder", WEIGHTS_FILES),
    ("tokenizer", ["tokenizer.json", "vocab.json"]),
]
_NEEDED_OF_SDXL: list[tuple[str, Sequence[str]]] = [
    (f"{part}_2", names) for part, names in _NEEDED if part in ("text_encoder", "tokenizer")
]


def check_parts(facts: BaseFacts) -> None:
    """Refuse a folder in which a part of a base is missing; what a hub id has is known when it is loaded.

    Raises:
        UserError: it lacks a part or its weights, or one cannot be built, or it cannot be found.
    """
    base, is_sdxl = facts.base, facts.architecture == "sdxl"
    folder = Path(resolve(base))
    for part, names in (*_NEEDED, *(_NEEDED_OF_SDXL if is_sdxl else ())) if folder.is_dir() else ():
        if not any((folder / part / name).exists() for name in names):
            kind = "weights" if names is WEIGHTS_FILES else names[0]
            raise UserError(f"base {base} has no {kind} in its {part}/: copy the whole folder of the model")
    for part in ("unet", "vae", "text_encoder", *(("text_encoder_2",) if is_sdxl else ())):
        check_part(base, part)
