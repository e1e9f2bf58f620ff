"""What to tell a user of a file: what it is, and where it belongs instead."""

from collections.abc import Set as AbstractSet

from animatediff.weights.identify.model import UNUSUAL_INPUTS
from animatediff.weights.identify.weights_slots import place_for
from animatediff.weights.layouts.families import FAMILY_NAMES, Base, Family, WeightsIdentity

_VERSIONED = ("motion_module", "motion_lora", "lora", "sparse_control")
BASE_NAMES: dict[Base, str] = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2",
    "sdxl": "SDXL",
    "sdxl-refiner": "SDXL refiner",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux",
}
"""What each model is called."""


def name(identity: WeightsIdentity) -> str:
    """Return what a file is in words, such as `an SDXL LoRA`."""
    if identity.family == "unknown":
        return f"no weights file of a known kind: {identity.note}"
    what = identity.version if identity.family == "controlnet" else None  # such as Control-LoRA
    words = [BASE_NAMES.get(identity.base, "") if identity.base else "", what or FAMILY_NAMES[identity.family]]
    if identity.family == "checkpoint" and identity.version:
        words.insert(1, identity.version)
    if identity.family == "domain_adapter":
        words = words[1:]  # there are none but for Stable Diffusion 1.x
    if identity.family in _VERSIONED and identity.version not in (None, "LoRA", identity.base):
        words.append(f"({identity.version})")
    text = _with_article(" ".join(word for word in words if word))
    return f"{text} for another kind of model" if identity.base == "other" else text


def model_name(base: Base, role: str = "") -> str:
    """Return what a model for a base is in words.

    Such as `an SDXL model`, or with the role ` inpainting`, `an SDXL inpainting model`.
    """
    return f"{_with_article(BASE_NAMES[base])}{role} model"


def mismatch_reason(identity: WeightsIdentity, families: AbstractSet[Family], base: Base | None) -> str | None:
    """Return why a file cannot be used, as the end of a sentence that begins with its name; None if it can.

    Args:
        identity: the file's.
        families: what it may be.
        base: the model it is to be used with; None is any.
    """
    what = name(identity)
    if identity.family not in families:
        wanted = " or ".join(
            _with_article(FAMILY_NAMES[family].partition(" (")[0]) for family in sorted(families - {"unknown"})
        )
        if identity.family == "unknown":
            return f"is {what}; {wanted} is needed"
        place = place_for(identity.family)
        return f"is {what}, not {wanted}: {f'give it as {place}' if place else 'nothing here uses it'}"
    channels = {use: number for number, use in UNUSUAL_INPUTS.items()}
    if identity.family == "checkpoint" and identity.version in channels:
        return (
            f"is {what} (its UNet takes {channels[identity.version]} channels): take the text-to-image checkpoint that "
            "it was made from"
        )
    if base is not None and identity.base not in (None, base):
        return f"is {what}, the base is {BASE_NAMES[base]}: {_remedy(identity, base)}"
    return None


def _remedy(identity: WeightsIdentity, base: Base) -> str:
    if (identity.family, identity.base, base) == ("textual_inversion", "sd1", "sdxl"):
        return (
            "use it with a Stable Diffusion 1.x base; or, if it is the first half of a pair for SDXL, save both halves "
            "in one file, as clip_l and clip_g"
        )
    if identity.base in ("sd1", "sdxl"):
        return f"use it with {_with_article(BASE_NAMES[identity.base])} base"
    return f"take one that was made for {BASE_NAMES[base]}"


def _with_article(words: str) -> str:
    return f"{'an' if words.startswith(('SDXL', 'IP', 'image', 'inpainting', 'upscal')) else 'a'} {words}"
