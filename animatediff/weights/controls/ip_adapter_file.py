"""IP-Adapters as files: base, plus, plus-face and full-face, as `.bin` or `.safetensors`."""

import re
from collections.abc import Mapping

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from animatediff.errors import UserError, any_error_as_user_error
from animatediff.models.image_prompt.ip_adapter import IPAdapter
from animatediff.models.image_prompt.projections import HEAD_WIDTH, EmbeddingProjection, Resampler, StatesProjection
from animatediff.weights.identify.base import BASE_OF_TEXT_WIDTH
from animatediff.weights.identify.messages import BASE_NAMES
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.layouts.ip_adapter import LAYER, PROJECTION, ProjectionFacts, find_projection
from animatediff.weights.reading.scaled import dequantised
from animatediff.weights.reading.tensors import open_tensors, problem_with

_MAX_LAYERS = 1000  # attentions in SDXL: 140, in a resampler: 4
_BLOCK = re.compile(r"image_proj\.layers\.\d+\.0\.to_q\.weight")


def read(uri: str) -> IPAdapter:
    """Return an IP-Adapter, float32, frozen.

    Raises:
        UserError: as `open_file` says, or there are NaN or infinite numbers among the weights.
    """
    adapter, state = _opened(uri)
    own = {name: tensor.to(torch.float32, copy=True) for name, tensor in state.items()}  # the file is mapped
    for name, tensor in own.items():
        if not torch.stack(tensor.aminmax()).isfinite().all():
            raise UserError(f"{uri}: {name} has NaN or infinite values, the file is broken")
    adapter.load_state_dict(own, assign=True)
    return adapter.requires_grad_(False)


def open_file(uri: str) -> IPAdapter:
    """Return an IP-Adapter on the meta device, for checks: names and shapes were checked, no weight was read.

    Raises:
        UserError: there is no such file, it is of another kind, or not whole.
    """
    return _opened(uri)[0]


def check_fits(adapter: IPAdapter, unet: UNet2DConditionModel, base: str) -> None:
    """Refuse an IP-Adapter that was made for another UNet. Only shapes are compared.

    Args:
        adapter: on any device.
        unet: the base's, on any device.
        base: the base's name in messages.

    Raises:
        UserError: it does not fit.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    attentions = {n: unet.get_submodule(name) for n, name in enumerate(names) if name.endswith("attn2")}
    widths = {n: attention.to_k.out_features for n, attention in attentions.items()}
    token_width = next((attention.to_k.in_features for attention in attentions.values()), None)
    refused = f"{adapter.name} was made for another architecture than {base}"
    if adapter.token_width != token_width:
        theirs, ours = (_of_width(width) for width in (adapter.token_width, token_width))
        raise UserError(f"{refused}: its to_k_ip take tokens of {theirs}, the base's text embeddings have {ours}")
    for n in sorted(widths.keys() | adapter.widths.keys()):
        if n not in adapter.widths:
            raise UserError(f"{refused}: it lacks ip_adapter.{n}, for {names[n]}")
        if n not in widths:
            raise UserError(f"{refused}: it has ip_adapter.{n}, and the base no cross-attention of that number")
        if adapter.widths[n] != widths[n]:
            raise UserError(f"{refused}: ip_adapter.{n} is {adapter.widths[n]} wide, {names[n]} is {widths[n]}")


def _of_width(width: int | None) -> str:
    base = BASE_OF_TEXT_WIDTH.get(width or 0)
    return f"{width} numbers" + (f" ({BASE_NAMES[base]})" if base in BASE_NAMES else "")


def _opened(uri: str) -> tuple[IPAdapter, Mapping[str, Tensor]]:
    """Return the adapter on the meta device, and its state dict in the file, mapped: not to be written to."""
    file = open_tensors(uri)
    with any_error_as_user_error(f"cannot read the IP-Adapter {uri}"):
        expect_family(file, {"ip_adapter"})
        state = dequantised(file)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        found = find_projection(shapes)
        if found is None:
            raise UserError(f"{uri} is no whole IP-Adapter: its image_proj is of no known kind")
        if found.is_of_face:
            raise UserError(
                f"{uri} is an IP-Adapter {found.variant}, which reads a face recognition model's vectors, not CLIP's: "
                "take a base, plus, plus-face or full-face one"
            )
        if empty := next((name for name, tensor in state.items() if not tensor.numel()), None):
            raise UserError(f"{uri} is no whole IP-Adapter: {empty} is empty")
        with torch.device("meta"):
            adapter = _built(found, shapes, uri)
        expected = adapter.state_dict()
        for name in [*expected, *state]:
            if problem := problem_with(state.get(name), expected.get(name)):
                raise UserError(f"{uri} is no whole IP-Adapter: {name} {problem}")
        return adapter, state


def _built(found: ProjectionFacts, shapes: Mapping[str, tuple[int, ...]], uri: str) -> IPAdapter:
    keys = {int(match[1]): name for name in shapes if (match := LAYER.fullmatch(name)) and match[2] == "k"}
    widths = {n: _rows(shapes[keys[n]]) for n in sorted(keys)}
    depth = sum(map(bool, map(_BLOCK.fullmatch, shapes)))
    if not widths or max(len(widths), depth) > _MAX_LAYERS:
        raise UserError(f"{uri} is no IP-Adapter of Stable Diffusion: {len(widths)} layers have a to_k_ip")
    return IPAdapter(
        _image_proj(found, shapes, depth),
        "states" if found.reads_states else "embedding",
        found.clip_width,
        widths=widths,
        token_width=found.token_width,
        name=f"IP-Adapter {uri}",
    )


def _image_proj(found: ProjectionFacts, shapes: Mapping[str, tuple[int, ...]], depth: int) -> nn.Module:
    if found.num_tokens is None:
        return StatesProjection(found.clip_width, found.token_width)
    if found.variant == "base":
        return EmbeddingProjection(found.clip_width, found.token_width, found.num_tokens)
    attention_width = _rows(shapes.get(f"{PROJECTION}layers.0.0.to_q.weight", ()))
    return Resampler(
        *(found.clip_width, found.token_width),
        num_tokens=found.num_tokens,
        width=shapes[f"{PROJECTION}latents"][2],
        depth=depth,
        num_heads=max(1, attention_width // HEAD_WIDTH),  # where it is no multiple, its shape will not fit
    )


def _rows(shape: tuple[int, ...]) -> int:
    return next(iter(shape), 1)
