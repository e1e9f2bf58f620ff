"""LoRA files in the layouts that users have, merged by the formula."""

import json

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.sprites.base import build_base
from animatediff.weights import lora
from animatediff.weights.base import load_text_encoder, load_unet

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
CONV = "down_blocks.0.resnets.0.conv1"
PROJ_IN = "down_blocks.0.attentions.0.proj_in"


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    base = str(build_base(tmp_path_factory.mktemp("base") / "base"))
    return {"unet": load_unet(base).state_dict(), "text_encoder": load_text_encoder(base)[1].state_dict()}


def factors(weight, rank=2, seed=0):
    """Random (down, up) of a weight, convolutions' as kohya shapes them."""
    generator = torch.Generator().manual_seed(seed)
    ones = (1, 1) if weight.ndim == 4 else ()
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    return down, torch.randn(len(weight), rank, *ones, generator=generator)


def product(down, up):
    return torch.einsum("or,r...->o...", up.flatten(1), down)


def write(path, tensors, metadata=None):
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)


def kohya(name, down, up, alpha=None):
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    return tensors if alpha is None else tensors | {f"{name}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("module", [f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", CONV, PROJ_IN])
def test_kohya_merges_scale_alpha_rank_up_down(tmp_path, states, module):
    weight = states["unet"][f"{module}.weight"]
    down, up = factors(weight)
    path = write(tmp_path / "l.safetensors", kohya("lora_unet_" + module.replace(".", "_"), down, up, alpha=1.0))
    merged = lora.merge(states, path, scale=0.5)["unet"]
    torch.testing.assert_close(merged[f"{module}.weight"], weight + 0.5 * (1 / 2) * product(down, up))
    others = states["unet"].keys() - {f"{module}.weight"}
    assert all(merged[name] is states["unet"][name] for name in others)


def test_every_matrix_of_the_base_has_its_kohya_name(tmp_path, states):
    tensors, expected = {}, {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_text_model_")):
        for seed, (name, weight) in enumerate(states[part].items()):
            if name.endswith(".weight") and weight.ndim > 1:
                down, up = factors(weight, seed=seed)
                module = name.removesuffix(".weight").removeprefix("text_model.").replace(".", "_")
                tensors |= kohya(prefix + module, down, up)
                expected[part, name] = weight + product(down, up)
    merged = lora.merge(states, write(tmp_path / "l.safetensors", tensors), scale=1)
    for (part, name), weight in expected.items():
        torch.testing.assert_close(merged[part][name], weight, msg=name)


@pytest.mark.parametrize(
    "keys",
    [
        ("unet.{}.to_k.lora_A.weight", "unet.{}.to_k.lora_B.weight"),
        ("unet.{}.to_k.lora.down.weight", "unet.{}.to_k.lora.up.weight"),
        ("unet.{}.processor.to_k_lora.down.weight", "unet.{}.processor.to_k_lora.up.weight"),
    ],
)
def test_diffusers_layouts(tmp_path, states, keys):
    weight = states["unet"][f"{ATTENTION}.to_k.weight"]
    tensors = dict(zip([key.format(ATTENTION) for key in keys], factors(weight), strict=True))
    merged = lora.merge(states, write(tmp_path / "l.safetensors", tensors), scale=1)
    torch.testing.assert_close(merged["unet"][f"{ATTENTION}.to_k.weight"], weight + product(*factors(weight)))


def test_diffusers_text_encoder_in_both_spellings(tmp_path, states):
    name = next(name for name in states["text_encoder"] if name.endswith("layers.0.self_attn.q_proj.weight"))
    weight = states["text_encoder"][name]
    down, up = factors(weight)
    prefix = "text_encoder.text_model.encoder.layers.0.self_attn."
    for down_key, up_key in (
        ("q_proj.lora_A.weight", "q_proj.lora_B.weight"),
        ("to_q_lora.down.weight", "to_q_lora.up.weight"),
    ):
        path = write(tmp_path / "l.safetensors", {prefix + down_key: down, prefix + up_key: up})
        merged = lora.merge(states, path, scale=1)["text_encoder"][name]
        torch.testing.assert_close(merged, weight + product(down, up))


def test_alpha_in_diffusers_metadata_counts(tmp_path, states):
    weight = states["unet"][f"{ATTENTION}.to_k.weight"]
    down, up = factors(weight)
    tensors = {f"unet.{ATTENTION}.to_k.lora_A.weight": down, f"unet.{ATTENTION}.to_k.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 2})}
    merged = lora.merge(states, write(tmp_path / "l.safetensors", tensors, metadata), scale=1)
    torch.testing.assert_close(merged["unet"][f"{ATTENTION}.to_k.weight"], weight + 4 * product(down, up))


def test_linear_factors_of_a_1x1_convolution(tmp_path, states):
    weight = states["unet"][f"{PROJ_IN}.weight"]
    assert weight.ndim == 4
    down, up = factors(weight.flatten(1))
    path = write(tmp_path / "l.safetensors", kohya("lora_unet_" + PROJ_IN.replace(".", "_"), down, up))
    merged = lora.merge(states, path, scale=1)["unet"][f"{PROJ_IN}.weight"]
    torch.testing.assert_close(merged, weight + product(down, up)[:, :, None, None])


def test_a_key_that_matches_nothing_is_an_error(tmp_path, states):
    weight = states["unet"][f"{ATTENTION}.to_q.weight"]
    good = kohya("lora_unet_" + ATTENTION.replace(".", "_") + "_to_q", *factors(weight))
    path = write(tmp_path / "l.safetensors", good | {"lora_unet_no_such_place.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(UserError, match=r"1 keys match nothing in the base.*lora_unet_no_such_place"):
        lora.merge(states, path, scale=1)


def test_misfits_are_named(tmp_path, states):
    name = "lora_unet_" + ATTENTION.replace(".", "_") + "_to_q"
    path = write(tmp_path / "a.safetensors", kohya(name, torch.ones(2, 7), torch.ones(5, 2)))
    with pytest.raises(UserError, match=r"to_q.weight is \[32, 32\], the LoRA's \[5, 7\]"):
        lora.merge(states, path, scale=1)
    path = write(tmp_path / "b.safetensors", {f"{name}.lora_down.weight": torch.ones(2, 32)})
    with pytest.raises(UserError, match="incomplete"):
        lora.merge(states, path, scale=1)
    path = write(tmp_path / "c.safetensors", kohya(name, torch.ones(2, 32), torch.ones(32, 3)))
    with pytest.raises(UserError, match="rank"):
        lora.merge(states, path, scale=1)
