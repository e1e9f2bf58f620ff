"""Textual inversion files: vectors learned for a word of one's own, which stand in for that word in prompts."""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

import torch
from torch import Tensor

from animatediff.errors import UserError, any_error_as_user_error
from animatediff.models.embedding import Embedding
from animatediff.weights.identify.weights_file import Base, expect_family
from animatediff.weights.reading.tensors import TensorFile, open_tensors

_log = logging.getLogger(__name__)

# CLIP reads 77 tokens, of which the start and the end are its own.
_MAX_VECTORS = 75
# SDXL's two text encoders, by the names of its embedding files, and by those that diffusers' trainer once gave them.
_PAIR = {
    **{"clip_l": "text_encoder", "clip_g": "text_encoder_2"},
    **{"text_encoders_0": "text_encoder", "text_encoders_1": "text_encoder_2"},
}
# Of OpenCLIP bigG, SDXL's second text encoder; no other text encoder of Stable Diffusion is that wide.
_BIGG_WIDTH = 1280
# In a LoRA's file, as OneTrainer, kohya's and A1111's tools bundle them: the word, and the name in a file of its own.
_BUNDLED = re.compile(r"bundle_emb\.(.+?)\.(string_to_param\..+|emb_params|clip_[lg])", re.DOTALL)
_BUNDLE = "bundle_emb."
# What stands where diffusers' layout has the token.
_NO_TOKEN = {"", "*", "emb_params", *_PAIR}


def read(uri: str, *, token: str | None = None, base: Base | None = None) -> Embedding:
    """Read an embedding in the layout of A1111, kohya, diffusers, or SDXL's pair.

    Args:
        uri: the file.
        token: the word for it; default: diffusers' key, else the file's name without suffix, as in A1111, where the
            `name` inside plays no part either.
        base: refuse a file that was made for another one; an SDXL pair's `clip_l` would fit SD 1.x, and mean nothing.

    Raises:
        UserError: the file cannot be read, is no embedding or not for `base`, or its vectors are unusable.
    """
    file = open_tensors(uri)
    with any_error_as_user_error(f"cannot read the embedding {uri}"):
        expect_family(file, {"textual_inversion"}, base=base)
        tensors = _named(file)
        vectors = _all_vectors(tensors, f"embedding {uri}")
        own = next(iter(tensors.keys() - _NO_TOKEN), None)
        return Embedding(token or own or PurePosixPath(uri).stem, vectors)


def bundled(file: TensorFile) -> list[Embedding]:
    """Return the embeddings that a LoRA's file has beside its factors, each under its own word.

    Raises:
        UserError: their vectors are unusable.
    """
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in file.tensors.items():
        if match := _BUNDLED.fullmatch(name):
            found[match[1]][match[2]] = tensor
    return [
        Embedding(word, _all_vectors(tensors, f"{file.uri}: bundled embedding {word!r}"))
        for word, tensors in found.items()
    ]


def without_bundled(file: TensorFile) -> TensorFile:
    """Return a LoRA's file without the embeddings in it; those of a kind that is not read are told."""
    bundle = [name for name in file.tensors if name.startswith(_BUNDLE)]
    if not bundle:
        return file
    others = [name for name in bundle if not _BUNDLED.fullmatch(name)]
    if others:
        _log.warning(
            "%s: %d tensors of its bundled embeddings are not used, such as %s", file.uri, len(others), others[0]
        )
    return replace(file, tensors={name: t for name, t in file.tensors.items() if not name.startswith(_BUNDLE)})


def _all_vectors(tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Return the vectors by text encoder, and refuse unequal numbers."""
    vectors = {_part(name, tensor): _vectors(tensor, f"{what}: {name}") for name, tensor in tensors.items()}
    if len({len(rows) for rows in vectors.values()}) > 1:
        sizes = " and ".join(f"{len(rows)} for the {part}" for part, rows in vectors.items())
        raise UserError(f"{what} has {sizes}: both text encoders need the same number of vectors")
    return vectors


def _named(file: TensorFile) -> dict[str, Tensor]:
    """Return the file's vectors under their own name: a token, `emb_params`, A1111's `*`, `clip_l` and `clip_g`."""
    # `string_to_token` is the placeholder's id in the vocabulary that the file was trained with.
    tensors = {n: tensor for n, tensor in file.tensors.items() if not n.startswith("string_to_token.")}
    if tensors and tensors.keys() <= _PAIR.keys():
        return {name: tensors[name] for name in _PAIR if name in tensors}
    # A trainer's file has the state of its optimizer beside them.
    learned = {n: tensor for n, tensor in tensors.items() if n == "emb_params" or n.startswith("string_to_param.")}
    tensors = learned or tensors
    if len(tensors) != 1:
        names = f" ({', '.join(sorted(tensors)[:3])}, ...)" if tensors else ""
        raise UserError(f"{file.uri} is no embedding: it holds {len(tensors)} tensors{names}, not one word's vectors")
    name, tensor = next(iter(tensors.items()))
    return {"*" if name.startswith("string_to_param.") else name: tensor}


def _part(name: str, tensor: Tensor) -> str:
    """Which text encoder the vectors are for: diffusers and kohya also write SDXL's two files apart, without a name."""
    return _PAIR.get(name) or ("text_encoder_2" if tensor.shape[-1:] == (_BIGG_WIDTH,) else "text_encoder")


def _vectors(tensor: Tensor, what: str) -> Tensor:
    if not tensor.is_floating_point():
        raise UserError(f"{what} holds {str(tensor.dtype).removeprefix('torch.')}, an embedding's vectors are floats")
    if tensor.ndim not in (1, 2) or not tensor.numel():
        raise UserError(f"{what} is {list(tensor.shape)}, an embedding is one vector or several: [n, width]")
    vectors = torch.atleast_2d(tensor)
    if len(vectors) > _MAX_VECTORS:
        raise UserError(f"{what} has {len(vectors)} vectors, a prompt has room for {_MAX_VECTORS}")
    vectors = vectors.to(torch.float32, copy=True)  # the file's own memory is mapped
    if not torch.isfinite(vectors).all():
        raise UserError(f"{what} has NaN or infinite values: the file is broken, take another copy")
    return vectors
