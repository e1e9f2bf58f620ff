"""What tests of low-rank files need: random factors, files of them, and the sum that they stand for."""

import re

import torch
from safetensors.torch import save_file

from animatediff.weights.lora import lora_file

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
ATTENTION = f"{BLOCK}.attn1"
CONV = "down_blocks.0.resnets.0.conv1"
PROJ_IN = "down_blocks.0.attentions.0.proj_in"
OFFICIAL = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
"""A motion module's transformer block in the official layout."""
PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
"""An attention's, as attention processors call them, and their modules."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(weight, rank=2, seed=0):
    """Random (down, up) of a weight, convolutions' as kohya shapes them."""
    ones = (1, 1) if weight.ndim == 4 else ()
    return draw(rank, *weight.shape[1:], seed=seed), draw(len(weight), rank, *ones, seed=seed + 1)


def expected(weight, down, up, scale):
    """`weight + scale * up @ down` in float64."""
    return weight.double() + scale * torch.einsum("or,r...->o...", up.double().flatten(1), down.double())


def write(path, tensors, metadata=None):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)


def flat(module):
    return module.replace(".", "_")


def kohya(name, down, up, alpha=None):
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(alpha)}


def good():
    """A small whole file, in kohya's layout."""
    return kohya(f"lora_unet_{flat(ATTENTION)}_to_q", draw(2, 32), draw(32, 2))


def processor_file(states, part, attentions, *, rank=2, scale=1.0):
    """The factors of whole attentions as the official layout has them, and the weights with them added."""
    tensors, wanted = {}, {}
    places = [(attention, said, module) for attention in attentions for said, module in PROJECTIONS.items()]
    for seed, (attention, said, module) in enumerate(places):
        name = f"{attention}.{module}.weight"
        down, up = factors(states[part][name], rank, seed)
        tensors[f"{attention}.processor.{said}_lora.down.weight"] = down
        tensors[f"{attention}.processor.{said}_lora.up.weight"] = up
        wanted[part, name] = expected(states[part][name], down, up, scale)
    return tensors, wanted


def respelled(tensors, *rules):
    """The tensors under names that each rule, a pattern and its replacement, has changed in turn."""

    def respell(key):
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {respell(key): tensor for key, tensor in tensors.items()}


def merge(states, uri, *, scale, family="lora"):
    """New state dicts with a file's changes added; weights that it does not touch are the old tensors."""
    merged = {part: dict(state) for part, state in states.items()}
    for (part, name), change in lora_file.read_deltas(uri, states, family=family).items():
        weight = merged[part][name]
        merged[part][name] = weight + scale * change.to_dense().reshape(weight.shape)
    return merged


def assert_changed(merged, states, wanted, atol=1e-6):
    """Exactly the wanted weights are changed, to within `atol`."""
    for (part, name), value in wanted.items():
        torch.testing.assert_close(merged[part][name].double(), value, atol=atol, rtol=1e-6, msg=name)
    for part, state in states.items():
        others = state.keys() - {name for changed_part, name in wanted if changed_part == part}
        assert all(merged[part][name] is state[name] for name in others)
