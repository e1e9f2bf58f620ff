"""What a weights file is, told from its content."""

from collections.abc import Collection
from typing import Literal

from animatediff.config import Config
from animatediff.errors import UserError
from animatediff.weights.tensors import TensorFile

Family = Literal[
    "motion_module",
    "motion_lora",
    "domain_adapter",
    "checkpoint",
    "vae",
    "lora",
    "textual_inversion",
    "controlnet",
    "sparse_control",
    "ip_adapter",
    "unknown",
]
Base = Literal["sd1", "sd2", "sdxl", "sdxl-refiner", "sd3", "flux", "other"]


class Identity(Config):
    """What a file is. None stands for what its content does not tell."""

    uri: str
    family: Family
    version: str | None = None
    """Of a motion module: v1, v2, v3, sdxl, animatelcm, hotshotxl; of a LoRA its algorithm: LoRA, LoCon, LoHa, ..."""
    layout: str | None = None
    """Whose key names: official, diffusers, kohya, peft, ldm, a1111, ..."""
    base: Base | None = None
    """The model it was made for."""
    rank: str | None = None
    """Of a low-rank file: one number, or `4-64` where its layers differ."""
    alpha: str | None = None
    """Likewise; None where the file has none, which stands for the rank."""
    dtype: str | None = None
    """Such as `float16`; several are joined with `+`."""
    parameters: int = 0
    """Trained numbers: without position tables, alphas and EMA copies."""
    sha256: str | None = None
    """Of the file's bytes."""
    metadata: dict[str, str] = {}
    """What the file says of itself: title, author, licence, trigger words, base."""
    note: str | None = None
    """What a user should know about this kind of file."""


def identify(file: TensorFile) -> Identity:
    """Tell a file's family and everything else that its names, shapes and metadata say; no weight is read."""
    return Identity(uri=file.uri, family="unknown")


def expect(file: TensorFile, families: Collection[Family], *, base: Base | None = None) -> Identity:
    """The file's identity, if it is of one of `families` and not for another base than `base`.

    Raises:
        UserError: it is not; the line says what it is and where it belongs.
    """
    found = identify(file)
    if found.family not in families:
        raise UserError(f"{file.uri} is a {found.family}")
    return found
