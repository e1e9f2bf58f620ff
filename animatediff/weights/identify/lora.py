"""What a low-rank file changes, and how: MotionLoRA, domain adapter or LoRA, its algorithm, rank and alpha."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress

from torch import Tensor

from animatediff.errors import UserError
from animatediff.weights.identify.base import find_base
from animatediff.weights.identify.metadata import printable
from animatediff.weights.layouts.families import ALGORITHMS, DOWN, Base, FileContents, LoraFamily, PartialIdentity
from animatediff.weights.layouts.few_step import of_lora
from animatediff.weights.reading.files import parse_json

DOMAIN_ADAPTER_RANK = 128
"""Rank of the published domain adapter (v3), which has 25,509,888 numbers."""
FAMILY_KEY = "animatediff_family"
"""Where domain adapters written here say in their metadata that they are such."""

_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("kohya", r"^(?:lora|lycoris)_"),
    ("peft", r"^base_model\.model\."),
    ("diffusers attention processors", r"\.processor\."),
    ("diffusers", r"^(?:unet|text_encoder|text_encoder_2|transformer)\."),
    ("ldm", r"^diffusion_model\."),
    ("peft", r"\.lora_[AB]\b"),
)
_MOTION_LAYOUTS: tuple[tuple[str, str], ...] = (
    ("kohya", r"^lora_"),
    ("motiondirector", r"\.processor\.\d+_lora\.|\.processor\.proj_lora\."),
    ("official", r"\.attention_blocks\.\d+\.processor\."),
    ("peft", r"^base_model\.model\."),
    ("diffusers", r"motion_modules\.\d+\.transformer_blocks\."),
    ("official", r"\.attention_blocks\."),
)
_MOTION = r"motion_modules|temporal_transformer|temporal_attentions"
# What a domain adapter changes, and nothing else: these four matrices of both attentions of a transformer block.
_ATTENTION_FACTOR = re.compile(
    r"(?:lora_unet_|(?:unet\.)*)((?:down_blocks|up_blocks|mid_block)[._].*transformer_blocks[._]\d+)"
    rf"[._](attn[12])[._](?:processor[._])?to_(q|k|v|out)(?:[._]0)?(?:{DOWN})"
)
_ADAPTERS_LAYOUTS = ("diffusers attention processors", "kohya")
"""Those that domain adapters are published in."""
_NUM_BLOCKS = 16  # transformer blocks of Stable Diffusion 1.x
_ATTENTION_MATRICES = {(attention, matrix) for attention in ("attn1", "attn2") for matrix in ("q", "k", "v", "out")}
_RANK_FIRST = re.compile(rf"{DOWN}|\.(?:hada_w1_b|lokr_w[12]_b)(?:\.default)?$")


def describe(family: LoraFamily, contents: FileContents) -> PartialIdentity:
    """Tell a low-rank file's kind; of its values only the alphas are read.

    Args:
        family: what its names tell; those of a `lora` may be a MotionLoRA's or a domain adapter's, too.
        contents: the file's.
    """
    ranks = {contents.shapes[name][0] for name in contents.matching(_RANK_FIRST) if contents.shapes[name]}
    alphas = _alphas(contents.tensors) | _alphas_of_metadata(contents.metadata)
    rank, alpha = _range(ranks), _range(alphas)
    if family != "lora":
        return PartialIdentity(family, None, _layout(_LAYOUTS, contents), find_base(contents), rank, alpha)
    if contents.has(_MOTION):
        version, base = _motion_version(contents)
        return PartialIdentity(
            "motion_lora",
            version,
            _layout(_MOTION_LAYOUTS, contents),
            base,
            rank,
            alpha,
            "; ".join(filter(None, (_note_on_few_steps(contents), _note_on_base_layers(contents)))) or None,
        )
    algorithm, base, layout = _algorithm(contents), find_base(contents), _layout(_LAYOUTS, contents)
    says_so = contents.metadata.get(FAMILY_KEY) == "domain_adapter"
    may_be_one = algorithm == "LoRA" and base in ("sd1", None) and alphas <= {DOMAIN_ADAPTER_RANK}
    has_its_layout = layout in _ADAPTERS_LAYOUTS
    if not says_so and may_be_one and ranks == {DOMAIN_ADAPTER_RANK}:
        blocks = _blocks_of_changed_attention(contents)
        if blocks == _NUM_BLOCKS or (blocks and has_its_layout):
            note = None if has_its_layout else "any LoRA of rank 128 on the UNet's attention looks the same"
            return PartialIdentity("domain_adapter", None, layout, base, rank, alpha, note)
    if says_so:
        return PartialIdentity("domain_adapter", None, layout, base, rank, alpha)
    words = sorted({name.split(".")[1] for name in contents.matching(r"^bundle_emb\.[^.]+\.")})
    note = (
        f"with {len(words)} embedding{'s' if len(words) > 1 else ''} for the words {', '.join(words)}"
        if words
        else None
    )
    return PartialIdentity("lora", algorithm, layout, base, rank, alpha, printable(note) if note else None)


def _algorithm(contents: FileContents) -> str:
    found = next((algorithm for algorithm, pattern in ALGORITHMS if contents.has(pattern)), "LoRA")
    if found == "LoRA" and any(shape[2:] not in ((), (1, 1)) for shape in _shapes(contents, DOWN)):
        return "LoCon"
    if found == "OFT" and any(len(shape) == 4 for shape in _shapes(contents, "oft_blocks")):
        return "BOFT"
    return found


def _shapes(contents: FileContents, pattern: str) -> Iterable[tuple[int, ...]]:
    return (contents.shapes[name] for name in contents.matching(pattern))


def _layout(layouts: tuple[tuple[str, str], ...], contents: FileContents) -> str | None:
    return next((layout for layout, pattern in layouts if contents.has(pattern)), None)


def _blocks_of_changed_attention(contents: FileContents) -> int:
    """Count the transformer blocks that have all matrices of their attentions changed; 0 if anything else is."""
    blocks: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for name in contents.matching(DOWN):
        match = _ATTENTION_FACTOR.fullmatch(name)
        if not match:
            return 0
        blocks[match[1]].add((match[2], match[3]))
    return len(blocks) if all(changed == _ATTENTION_MATRICES for changed in blocks.values()) else 0


def _motion_version(contents: FileContents) -> tuple[str | None, Base | None]:
    """Return a MotionLoRA's version and base, from the blocks that it changes.

    Only v2's motion modules have one in the middle, and only SD 1.x's UNet a fourth block a side.
    """
    version = "v2" if contents.has(rf"mid_block.*(?:{_MOTION})") else None
    return version, "sd1" if contents.has(rf"(?:down|up)_blocks[._]3[._](?:{_MOTION})") else None


def _note_on_few_steps(contents: FileContents) -> str | None:
    with suppress(ValueError):
        if few_step := of_lora(contents.metadata):
            return f"it is for few steps: {few_step}"
    return None


def _note_on_base_layers(contents: FileContents) -> str | None:
    others = any(not re.search(_MOTION, name) for name in contents.matching(DOWN))
    return "it changes layers of the base too" if others else None


def _alphas(tensors: Mapping[str, Tensor]) -> set[float]:
    found = (tensor for name, tensor in tensors.items() if name.endswith(".alpha") and tensor.numel() == 1)
    return {float(tensor) for tensor in found if not tensor.is_complex()}


def _alphas_of_metadata(metadata: Mapping[str, str]) -> set[float]:
    """Return the alphas that diffusers writes, one a part, for example `unet.lora_alpha`."""
    try:
        entries = parse_json(metadata.get("lora_adapter_metadata", "{}"), "").items()
        return {float(value) for key, value in entries if key.endswith("lora_alpha") and isinstance(value, int | float)}
    except (UserError, OverflowError):  # the reader refuses it, here it says nothing
        return set()


def _range(numbers: Iterable[float]) -> str | None:
    """Return the least and the most of some numbers: `8`, or `4-64` where they differ."""
    found = sorted(set(numbers))
    return "-".join(f"{number:g}" for number in dict.fromkeys((found[0], found[-1]))) if found else None
