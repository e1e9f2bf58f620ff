"""Which model a file was made for: told from the width of the text that its layers take, then from its names."""

import re
from collections.abc import Iterator, Mapping

from animatediff.weights.layouts.families import DOWN, Base, FileContents

BASE_OF_TEXT_WIDTH: dict[int, Base] = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl-refiner"}
"""Width of the text embeddings that a base's cross-attention reads."""

_NAMES: tuple[tuple[Base, str], ...] = (
    ("flux", r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d"),
    ("sd3", r"(?:^|[._])joint_blocks[._]\d"),
    ("sdxl", r"^conditioner\.embedders\.1\.|^lora_te2_|^text_encoder_2\.|^clip_g$"),
    ("sdxl-refiner", r"^conditioner\.embedders\.0\.model\."),
    ("sdxl", r"^add_embedding\.linear_1\.|(?:^|[._])label_emb[._]0[._]|^lora_te1_"),
    # Only SDXL stacks several transformer blocks in one attention.
    ("sdxl", r"(?:attentions[._]\d+|(?:put_blocks[._]\d+|middle_block)[._]1)[._]transformer_blocks[._][1-9]"),
    ("sd2", r"^cond_stage_model\.model\."),
    ("sd1", r"^cond_stage_model\.transformer\."),
)
# Of UNets in the original layout. SDXL's has three levels, no fourth, and no attention in the level of most pixels.
_NOT_SDXL = (
    r"(?:^|[._])(?:(?:in|out)put_blocks[._](?:9|10|11)|(?:input_blocks[._][12]|output_blocks[._][678])[._]1)[._]"
)
_UNET_OR_TEXT = r"(?:down|up|mid|input|output|middle)_blocks?[._]|text_model|text_encoder|^lora_te"
# Transformers: a stack of blocks or layers that is not a UNet's or a text encoder's.
_STACK = r"(?:^|[._])(?:\w+_)?(?:blocks|layers)[._]\d"
_TEXT_STACK = r"(?:^|[._])encoder[._]layers[._]\d"
_METADATA: tuple[tuple[Base, str], ...] = (
    ("sdxl-refiner", r"^(?:stable-diffusion-)?(?:sd)?xl.*refiner"),
    ("sdxl", r"^sdxl|^stable-diffusion-xl"),
    ("sd3", r"^sd3|^stable-diffusion-v?3"),
    ("sd2", r"^sd_?v?2|^stable-diffusion-v2"),
    ("sd1", r"^sd_?v?1|^stable-diffusion-v1"),
    ("flux", r"^flux-?1"),
)
_METADATA_FIELDS = ("ss_base_model_version", "modelspec.architecture")

# In a UNet a numbered place holds the transformer blocks; image transformers with an `attn2` begin with them.
_CROSS_ATTENTION = re.compile(
    r"\d[._]transformer_blocks[._]\d+[._]attn2[._](?:processor[._])?to_[kv](?![a-z])|(?:^|\.)\d+\.to_[kv]_ip\."
    r"|^model_ema\.diffusion_model.*transformer_blocks\d+attn2to_[kv]weight$"  # averaged, and without dots
)
# Of a motion module that was trained here with `model.text_conditioned`.
_TEXT_ATTENTION = re.compile(r"\.text_attention\.to_[kv]\.weight$")
_TEXT_ENCODER = re.compile(r"^(?:lora_te_|text_encoder\.).*self_attn[._](?:to_)?[qkv](?![a-z])")
_JOINT_ATTENTION = re.compile(r"^(?:transformer\.|base_model\.model\.)?transformer_blocks\.\d+\.attn\.")
_SD3_WIDTH = 1536
# The tensors whose second dimension is what the layer reads.
_READS_SECOND = re.compile(rf"{DOWN}|\.hada_w1_b(?:\.default)?$|\.diff$|to_[kv](?:_ip(?:\.\d+)?)?\.?weight$")


def find_base(contents: FileContents) -> Base | None:
    """Return the model that a network's weights, or changes to them, were made for; None where nothing tells.

    The metadata counts only where names and shapes say nothing, as it can be wrong.
    """
    by_name = next((base for base, pattern in _NAMES if contents.has(pattern)), None)
    if by_name in ("flux", "sd3"):
        return by_name
    widths = {BASE_OF_TEXT_WIDTH.get(width) for width in _widths(contents, _CROSS_ATTENTION)}
    if len(widths) == 1 and None not in widths:
        return widths.pop()
    found = by_name or _of_text_encoder(contents)
    return found or _of_blocks(contents) or _of_metadata(contents.metadata) or _of_another_kind(contents)


def text_width(contents: FileContents) -> int | None:
    """Return the width of the text embeddings that the layers read; None where nothing tells, or they differ."""
    widths = _widths(contents, _CROSS_ATTENTION) | _widths(contents, _TEXT_ATTENTION)
    return widths.pop() if len(widths) == 1 else None


def _of_text_encoder(contents: FileContents) -> Base | None:
    """Return the base of a change to the text encoder alone; SDXL's two have names of their own."""
    widths = _widths(contents, _TEXT_ENCODER)
    return BASE_OF_TEXT_WIDTH[widths.pop()] if len(widths) == 1 and widths <= {768, 1024} else None


def _of_blocks(contents: FileContents) -> Base | None:
    """Return the base of a change to the UNet, in the original layout, that leaves out the layers which read text."""
    if not contents.has(_NOT_SDXL):
        return None
    said = _of_metadata(contents.metadata)
    return said if said in ("sd2", "sdxl-refiner") else "sd1"  # they have the same blocks, or some of them


def _of_metadata(metadata: Mapping[str, str]) -> Base | None:
    said = [metadata.get(field, "").lower() for field in _METADATA_FIELDS]
    return next((base for text in said for base, pattern in _METADATA if re.search(pattern, text)), None)


def _of_another_kind(contents: FileContents) -> Base | None:
    """Return the base of image and video transformers, which have no UNet at all."""
    if contents.has(_UNET_OR_TEXT) or contents.has(_TEXT_STACK) or not contents.has(_STACK):
        return None
    return "sd3" if _SD3_WIDTH in _widths(contents, _JOINT_ATTENTION) else "other"


def _widths(contents: FileContents, place: re.Pattern[str]) -> set[int]:
    """Return what the layers at `place` read, in numbers a token."""
    return {width for name in contents.matching(place) for width in _reads(name, contents.shapes)}


def _reads(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[int]:
    shape = shapes[name]
    if name.endswith((".lokr_w1", ".lokr_w1_b")):
        # A Kronecker product: the widths of its two factors multiply. Either may be a product of two itself.
        module = name.rpartition(".")[0]
        second = shapes.get(f"{module}.lokr_w2") or shapes.get(f"{module}.lokr_w2_b") or ()
        if len(shape) > 1 and len(second) > 1:
            yield shape[1] * second[1]
    elif _READS_SECOND.search(name) and len(shape) > 1:
        yield shape[1]
