"""Low-rank files that are refused: each in one line that names the file and what is wrong with it."""

import pytest
import torch

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.base import load_text_encoder, load_unet
from animatediff.weights.lora import lora_file
from tests.support_base import build_base
from tests.support_lora import ATTENTION, BLOCK, CONV, OFFICIAL, draw, flat, good, kohya, processor_file, write
from tests.support_weights import tiny_sdxl

KEY = "lora_unet_" + flat(ATTENTION)


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    base = str(build_base(tmp_path_factory.mktemp("base") / "base"))
    unet = load_unet(base)
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=8))
    modules = {"unet": unet, "text_encoder": load_text_encoder(base)[1], "motion": motion}
    return {part: module.state_dict() for part, module in modules.items()}


TE_1, TE_2 = ("lora_te_text_model_encoder_layers_11_mlp_fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc1")
PEFT_Q = f"unet.{ATTENTION}.to_q"
NAN = float("nan")
REFUSED = {
    "a key that is nowhere": (
        good() | {"lora_unet_no_such_place.lora_down.weight": draw(2, 2)},
        "1 of its keys match nothing in the model, such as lora_unet_no_such_place.lora_down.weight",
    ),
    "a tensor that is no factor": (good() | {f"{KEY}_to_q.reshape_weight": draw(2)}, "such as .*reshape_weight"),
    "a layer too many": (good() | kohya(TE_1, draw(2, 32), draw(128, 2)), "such as .*layers_11"),
    "another text encoder": (good() | kohya(TE_2, draw(2, 32), draw(128, 2)), "text_encoder_2|SDXL"),
    "another width": (
        kohya(f"{KEY}_to_q", draw(2, 7), draw(5, 2)),
        r"does not fit the base: .*attn1.to_q.weight is \[32, 32\], the file's change \[5, 7\]",
    ),
    "another kernel": (
        kohya("lora_unet_" + flat(CONV), draw(2, 32, 5, 5), draw(32, 2, 1, 1)),
        r"conv1.weight is \[32, 32, 3, 3\], the file's change \[32, 32, 5, 5\]",
    ),
    "SDXL's text width": (
        good() | kohya("lora_unet_" + flat(f"{BLOCK}.attn2.to_k"), draw(2, 2048), draw(32, 2)),
        "SDXL",
    ),
    "a vector for a matrix": (
        good() | {"lora_unet_" + flat(f"{BLOCK}.attn2.to_k") + ".diff": draw(32)},
        r"attn2.to_k.weight is \[32, 32\], the file's change \[32\]",
    ),
    "half a pair": ({f"{KEY}_to_q.lora_down.weight": draw(2, 32)}, "to_q: its factors are incomplete.*down"),
    "two ranks": (kohya(f"{KEY}_to_q", draw(2, 32), draw(32, 3)), "to_q: its factors are of rank 2 and 3"),
    "two algorithms": (good() | {f"{KEY}_to_q.diff": draw(32, 32)}, "several kinds: diff, down, up"),
    "twice": (good() | {f"{PEFT_Q}.lora_A.weight": draw(2, 32)}, "two factors down for .*to_q"),
    "NaN": (kohya(f"{KEY}_to_q", draw(2, 32), draw(32, 2) * NAN), "to_q.lora_up.weight holds NaN"),
    "infinity": (kohya(f"{KEY}_to_q", draw(2, 32) / 0, draw(32, 2)), "to_q.lora_down.weight holds NaN or inf"),
    "infinite alpha": (kohya(f"{KEY}_to_q", draw(2, 32), draw(32, 2), float("inf")), "alpha is no"),
    "several alphas": (good() | {f"{KEY}_to_q.alpha": draw(3)}, "to_q: its alpha is no finite number"),
    "integers": (
        kohya(f"{KEY}_to_q", draw(2, 32).to(torch.int8), draw(32, 2)),
        "to_q.lora_down.weight is of torch.int8",
    ),
    "ranks 0 and 2": (kohya(f"{KEY}_to_q", draw(0, 32), draw(32, 2), 1.0), "to_q.lora_down.weight is empty"),
    "a scalar of NaN": (good() | {f"{KEY}_to_q.scalar": torch.tensor(NAN)}, "its scalar is no finite number"),
    "a scalar of a full difference": (
        {f"{KEY}_to_q.diff": draw(32, 32), f"{KEY}_to_q.scalar": torch.tensor(2.0)},
        "to_q: a scalar stands beside its full difference",
    ),
    "a bias too many": (good() | {f"{KEY}_to_q.diff_b": draw(32)}, "to_q.bias, which the model does not have"),
    "DoRA's lengths of another width": (
        good() | {f"{KEY}_to_q.dora_scale": draw(1, 31)},
        r"to_q: its lengths are \[1, 31\], its weight is \[32, 32\]",
    ),
    "DoRA's lengths of a bias": (
        {f"lora_unet_{flat(CONV)}.diff_b": draw(32), f"lora_unet_{flat(CONV)}.dora_scale": draw(32)},
        "conv1: its factors are incomplete",
    ),
    "GLoRA": ({f"{KEY}_to_q.{name}.weight": draw(2, 2) for name in ("a1", "a2", "b1", "b2")}, "GLoRA, which is not"),
    "OFT": ({f"{KEY}_to_q.oft_blocks": draw(4, 8, 8)}, "OFT, which is not applied"),
    "BOFT": ({f"{KEY}_to_q.oft_blocks": draw(2, 4, 8, 8)}, "BOFT, which is not applied"),
    "IA3": ({f"{KEY}_to_k.weight": draw(32), f"{KEY}_to_k.on_input": torch.tensor(False)}, "IA3, which is not applied"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, states, case):
    tensors, message = REFUSED[case]
    path = write(tmp_path / "l.safetensors", tensors)
    with pytest.raises(UserError, match=message) as caught:
        lora_file.read_deltas(path, states, family="lora")
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_two_parts_have_is_refused(tmp_path):
    sdxl = {part: module.state_dict() for part, module in tiny_sdxl().items()}
    key = "base_model.model.text_model.encoder.layers.0.mlp.fc1"
    tensors = {f"{key}.lora_A.weight": draw(2, 16), f"{key}.lora_B.weight": draw(64, 2)}
    with pytest.raises(UserError, match="does not say what it changes, text_encoder or text_encoder_2"):
        lora_file.read_deltas(write(tmp_path / "l.safetensors", tensors), sdxl, family="lora")


def test_families_are_told_apart(tmp_path, states):
    motion = write(tmp_path / "m.safetensors", processor_file(states, "motion", [f"{OFFICIAL}.attention_blocks.0"])[0])
    spatial = write(tmp_path / "s.safetensors", good())
    for path, family in ((motion, "lora"), (motion, "domain_adapter"), (spatial, "motion_lora")):
        with pytest.raises(UserError, match="LoRA"):
            lora_file.read_deltas(path, states, family=family)
