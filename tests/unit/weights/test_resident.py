"""Resident weights: what is applied is the sum that it says, and what is removed leaves no byte behind."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.resident import ResidentWeights, ScaledLora
from tests.support_base import build_base
from tests.support_weights import content_hash

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
CONV = "down_blocks.0.resnets.0.conv1"
MOTION = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


def modules(folder, dtype=torch.float32):
    unet = MotionUNet(load_unet(folder), MotionConfig(num_heads=4, norm_num_groups=8))
    parts = {"vae": load_vae(folder), "text_encoder": load_text_encoder(folder)[1]}
    parts |= {"unet": unet.base, "motion": unet.motion}
    return {part: module.to(dtype) for part, module in parts.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A base, another checkpoint, LoRAs of several ranks and algorithms, a MotionLoRA."""
    folder = tmp_path_factory.mktemp("weights")
    build_base(folder / "base")
    build_base(folder / "other", seed=1)
    shapes = {name: tensor.shape for name, tensor in load_unet(str(folder / "base")).state_dict().items()}
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) / 8

    def kohya(module, rank, alpha):
        out, *rest = shapes[f"{module}.weight"]
        name = "lora_unet_" + module.replace(".", "_")
        return {
            f"{name}.lora_down.weight": draw(rank, *rest),
            f"{name}.lora_up.weight": draw(out, rank, *([1, 1] if len(rest) == 3 else [])),
            f"{name}.alpha": torch.tensor(float(alpha)),
        }

    small = kohya(f"{ATTENTION}.to_q", 2, 1) | kohya(f"{ATTENTION}.to_v", 2, 4) | kohya(CONV, 3, 2)
    save_file(small, folder / "small.safetensors")
    save_file(kohya(f"{ATTENTION}.to_q", 5, 5) | kohya(f"{ATTENTION}.to_k", 5, 5), folder / "large.safetensors")
    key = "lora_unet_" + f"{ATTENTION}.to_q".replace(".", "_")
    loha = {f"{key}.hada_w{i}_{side}": draw(*((32, 4) if side == "a" else (4, 32))) for i in (1, 2) for side in "ab"}
    save_file(loha, folder / "loha.safetensors")
    motion = {f"{MOTION}.processor.to_{n}_lora.down.weight": draw(4, 32) for n in ("q", "out")}
    motion |= {f"{MOTION}.processor.to_{n}_lora.up.weight": draw(32, 4) for n in ("q", "out")}
    save_file(motion, folder / "motion_lora.safetensors")
    return folder


@pytest.fixture(scope="module")
def resident(files):
    return ResidentWeights(modules(str(files / "base")))


def low_rank(path, module):
    """An independent reading of a kohya file's change, in float64."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    name = "lora_unet_" + module.replace(".", "_")
    down, up = (tensors[f"{name}.lora_{side}.weight"].double() for side in ("down", "up"))
    scale = tensors[f"{name}.alpha"].double() / len(down)
    return scale * torch.einsum("or,r...->o...", up.flatten(1), down)


def test_several_additions_to_one_weight_add_up(files, resident):
    small, large = str(files / "small.safetensors"), str(files / "large.safetensors")
    resident.restore()
    before = {name: tensor.clone() for name, tensor in resident._states["unet"].items()}
    resident.load(scaled_loras=[ScaledLora(small, 0.5), ScaledLora(large, -2)])
    after = resident._states["unet"]
    expected = {
        f"{ATTENTION}.to_q": 0.5 * low_rank(small, f"{ATTENTION}.to_q") - 2 * low_rank(large, f"{ATTENTION}.to_q"),
        f"{ATTENTION}.to_v": 0.5 * low_rank(small, f"{ATTENTION}.to_v"),
        f"{ATTENTION}.to_k": -2 * low_rank(large, f"{ATTENTION}.to_k"),
        CONV: 0.5 * low_rank(small, CONV),
    }
    for module, change in expected.items():
        name = f"{module}.weight"
        torch.testing.assert_close(after[name].double(), before[name].double() + change, atol=1e-6, rtol=0)
    for name in before.keys() - {f"{module}.weight" for module in expected}:
        assert torch.equal(after[name], before[name]), name


def test_low_rank_and_dense_changes_of_one_weight(files, resident):
    small, loha = str(files / "small.safetensors"), str(files / "loha.safetensors")
    weight = resident._states["unet"][f"{ATTENTION}.to_q.weight"]
    values = {}
    for names in ((), (small,), (loha,), (small, loha), (loha, small)):
        resident.load(scaled_loras=[ScaledLora(name) for name in names])
        values[names] = weight.double()
    base = values[()]
    both = values[(small,)] - base + values[(loha,)] - base
    assert (values[(loha,)] - base).abs().max() > 0.001
    for order in ((small, loha), (loha, small)):
        torch.testing.assert_close(values[order] - base, both, atol=1e-6, rtol=0)


def test_a_motion_lora_changes_the_motion_module_alone(files, resident):
    resident.restore()
    before = {part: {n: t.clone() for n, t in state.items()} for part, state in resident._states.items()}
    resident.load(scaled_loras=[ScaledLora(str(files / "motion_lora.safetensors"), 1, "motion_lora")])
    changed = {
        (part, name)
        for part, state in resident._states.items()
        for name, tensor in state.items()
        if not torch.equal(tensor, before[part][name])
    }
    assert changed == {("motion", f"{MOTION}.to_q.weight"), ("motion", f"{MOTION}.to_out.0.weight")}
    # The module itself computes with the change: its fused projection is the same memory.
    fused = dict(resident._modules["motion"].named_parameters())[f"{MOTION}.to_qkv.weight"]
    assert torch.equal(fused[:32], resident._states["motion"][f"{MOTION}.to_q.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_apply_and_remove_in_turn(files, dtype):
    """The issue's A, remove, B, remove, A: one hash for both A, and the base's after each removal."""
    resident = ResidentWeights(modules(str(files / "base"), dtype))
    base = content_hash(resident)
    a = {
        "scaled_loras": [ScaledLora(str(files / "small.safetensors"), 0.7), ScaledLora(str(files / "loha.safetensors"))]
    }
    b = {"checkpoint": str(files / "other"), "scaled_loras": [ScaledLora(str(files / "large.safetensors"))]}
    hashes = []
    for wanted in (a, b, a):
        resident.load(**wanted)
        hashes.append(content_hash(resident))
        resident.restore()
        assert content_hash(resident) == base
    assert hashes[0] == hashes[2]
    assert len({base, *hashes}) == 3


def test_any_order_of_loads_gives_each_its_own_weights(files, resident):
    options = [
        {},
        {"checkpoint": str(files / "other")},
        {"scaled_loras": [ScaledLora(str(files / "small.safetensors"))]},
        {
            "checkpoint": str(files / "other"),
            "scaled_loras": [ScaledLora(str(files / "motion_lora.safetensors"), 0.5, "motion_lora")],
        },
    ]

    def weights(option):
        resident.load(**option)
        return content_hash(resident)

    expected = [weights(option) for option in options]
    assert len(set(expected)) == len(options)

    @settings(max_examples=10)
    @given(st.lists(st.integers(0, len(options) - 1), min_size=1, max_size=5))
    def check(order):
        for index in order:
            assert weights(options[index]) == expected[index]

    check()


def test_scale_zero_leaves_every_byte(files, resident):
    resident.restore()
    before = content_hash(resident)
    resident.load(scaled_loras=[ScaledLora(str(files / "small.safetensors"), 0)])
    assert content_hash(resident) == before


def test_a_checkpoint_equals_the_model_that_it_was(files, resident):
    resident.load(checkpoint=str(files / "other"))
    expected = ResidentWeights(modules(str(files / "other")))
    for part in ("unet", "vae", "text_encoder"):
        for name, tensor in expected._states[part].items():
            assert torch.equal(resident._states[part][name], tensor)


@pytest.mark.parametrize("before", [{}, {"scaled_loras": ["small"]}])
def test_a_failure_midway_leaves_the_base(files, tmp_path, before):
    """NaN shows only as the tensors are copied: some of them are in place by then."""
    resident = ResidentWeights(modules(str(files / "base"), torch.float16))
    base = content_hash(resident)
    resident.load(
        scaled_loras=[ScaledLora(str(files / f"{name}.safetensors")) for name in before.get("scaled_loras", ())]
    )
    name = "lora_unet_" + f"{ATTENTION}.to_q".replace(".", "_")
    big = {f"{name}.lora_down.weight": torch.full((1, 32), 3e4), f"{name}.lora_up.weight": torch.full((32, 1), 3e4)}
    save_file(big, tmp_path / "big.safetensors")
    with pytest.raises(UserError, match=r"big.safetensors makes .*to_q.weight NaN or infinite.*float16"):
        resident.load(checkpoint=str(files / "other"), scaled_loras=[ScaledLora(str(tmp_path / "big.safetensors"))])
    assert content_hash(resident) == base


def test_batches_stay_small(files, resident, monkeypatch):
    """Whatever the bound on a batch, the weights are the same up to rounding."""
    lora = [ScaledLora(str(files / "small.safetensors"))]
    names = [f"{ATTENTION}.to_q.weight", f"{ATTENTION}.to_v.weight", f"{CONV}.weight"]
    found = []
    for size in (1, 1 << 28):
        monkeypatch.setattr("animatediff.weights.resident._MAX_BATCH_BYTES", {"cpu": size})
        resident.load(scaled_loras=lora)
        found.append([resident._states["unet"][name].clone() for name in names])
    for one, other in itertools.zip_longest(*found):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_lora_on_a_checkpoint_is_rounded_once(files):
    """The resident model is in half precision, the checkpoint is not: its own numbers enter the sum."""
    small = str(files / "small.safetensors")
    resident = ResidentWeights(modules(str(files / "base"), torch.float16))
    resident.load(checkpoint=str(files / "other"), scaled_loras=[ScaledLora(small)])
    name = f"{ATTENTION}.to_q.weight"
    exact = load_unet(str(files / "other")).state_dict()[name].double() + low_rank(small, f"{ATTENTION}.to_q")
    assert torch.equal(resident._states["unet"][name], exact.float().half())


def test_a_vae_of_its_own_is_in_the_checkpoints_place_and_leaves_nothing(files, tmp_path):
    resident, other = (ResidentWeights(modules(str(files / name))) for name in ("base", "other"))
    third = str(build_base(tmp_path / "third", seed=2))
    before = {target: tensor.clone() for target, tensor in tensors_of(resident).items()}
    resident.apply(resident.read(str(files / "other"), vae=third))
    expected = {f"unet.{name}": tensor for name, tensor in other._states["unet"].items()}
    expected |= {f"vae.{name}": tensor for name, tensor in load_vae(third).state_dict().items()}
    assert all(torch.equal(tensors_of(resident)[name], tensor) for name, tensor in expected.items())
    resident.apply(resident.read(vae=third))
    assert not resident.is_changed("unet")
    assert resident.is_changed("vae")
    resident.restore()
    assert all(torch.equal(tensors_of(resident)[name], tensor) for name, tensor in before.items())


def test_a_broken_vae_is_the_one_that_is_blamed(files, tmp_path):
    vae = load_vae(str(files / "other")).state_dict()
    vae["decoder.conv_in.bias"] = torch.full_like(vae["decoder.conv_in.bias"], float("nan"))
    save_file(vae, tmp_path / "vae.safetensors")
    resident = ResidentWeights(modules(str(files / "base")))
    with pytest.raises(UserError, match=r"^VAE .*vae\.safetensors makes decoder\.conv_in\.bias NaN or infinite"):
        resident.apply(resident.read(str(files / "other"), vae=str(tmp_path / "vae.safetensors")))
    with pytest.raises(UserError, match=r"lora.* holds no Stable Diffusion weights|is a LoRA"):
        resident.read(vae=str(files / "small.safetensors"))


def tensors_of(resident):
    return {f"{part}.{name}": tensor for part, state in resident._states.items() for name, tensor in state.items()}
