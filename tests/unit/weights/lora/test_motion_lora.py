"""MotionLoRAs and domain adapters: the layouts of both, and a v2 MotionLoRA where there is no mid block."""

import pytest
import torch

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.base import load_unet
from animatediff.weights.lora import lora_file
from tests.support_base import build_base
from tests.support_lora import (
    BLOCK,
    OFFICIAL,
    assert_changed,
    expected,
    factors,
    merge,
    processor_file,
    respelled,
    write,
)

MIDDLE = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_unet(str(build_base(tmp_path_factory.mktemp("base") / "base")))


@pytest.fixture(scope="module")
def states(base):
    motion = MotionModules.for_base(base, MotionConfig(norm_num_groups=8))
    return {"unet": base.state_dict(), "motion": motion.state_dict()}


@pytest.fixture(scope="module")
def v2(base, states):
    """The same with a motion module in the middle block too."""
    motion = MotionModules.for_base(base, MotionConfig(norm_num_groups=8, use_mid_block=True)).state_dict()
    return states | {"motion": motion | states["motion"]}


TO_DIFFUSERS = (
    (r"^", "unet."),
    (r"\.temporal_transformer", ""),
    (r"attention_blocks\.0", "attn1"),
    (r"attention_blocks\.1", "attn2"),
)
MOTION_LAYOUTS = {
    "official": (),
    "diffusers' script": TO_DIFFUSERS,
    "diffusers": (
        *TO_DIFFUSERS,
        (r"processor\.to_out_lora", "to_out.0_lora"),
        (r"\.processor", ""),
        (r"_lora\.down", ".lora_A"),
        (r"_lora\.up", ".lora_B"),
    ),
    "MotionDirector": ((r"processor\.to_out_lora", "to_out.processor.0_lora"),),
    "MotionDirector, as trained": (
        (r"processor\.to_out_lora", "to_out.0_lora"),
        (r"\.processor", ""),
        (r"_lora\.(down|up)", r".lora_\1"),
    ),
}


@pytest.mark.parametrize("layout", MOTION_LAYOUTS)
def test_motion_loras(tmp_path, states, layout):
    blocks = [f"{OFFICIAL}.attention_blocks.{i}" for i in (0, 1)]
    tensors, wanted = processor_file(states, "motion", blocks, rank=4, scale=0.8)
    path = write(tmp_path / "l.safetensors", respelled(tensors, *MOTION_LAYOUTS[layout]))
    assert_changed(merge(states, path, scale=0.8, family="motion_lora"), states, wanted)


def test_motion_directors_feed_forward(tmp_path, states):
    tensors, wanted = {}, {}
    for key, module in (("ff.net.0.processor.proj", "ff.net.0.proj"), ("ff.net.processor.2", "ff.net.2")):
        weight = states["motion"][f"{OFFICIAL}.{module}.weight"]
        down, up = factors(weight)
        tensors |= {f"{OFFICIAL}.{key}_lora.down.weight": down, f"{OFFICIAL}.{key}_lora.up.weight": up}
        wanted["motion", f"{OFFICIAL}.{module}.weight"] = expected(weight, down, up, 1)
    path = write(tmp_path / "l.safetensors", tensors)
    assert_changed(merge(states, path, scale=1, family="motion_lora"), states, wanted)


def test_a_motion_lora_as_published_in_a_pickle(tmp_path, states):
    tensors, wanted = processor_file(states, "motion", [f"{OFFICIAL}.attention_blocks.0"])
    torch.save({"state_dict": tensors}, tmp_path / "l.ckpt")
    assert_changed(merge(states, str(tmp_path / "l.ckpt"), scale=1, family="motion_lora"), states, wanted)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"])
def test_a_motion_lora_in_a_folder_as_on_the_hub(tmp_path, states, name):
    tensors, wanted = processor_file(states, "motion", [f"{OFFICIAL}.attention_blocks.0"])
    write(tmp_path / name, respelled(tensors, *MOTION_LAYOUTS["diffusers"]))
    assert_changed(merge(states, str(tmp_path), scale=1, family="motion_lora"), states, wanted)


def test_a_v2_motion_lora_without_a_mid_block_to_go_to(tmp_path, states, v2, caplog):
    rest, wanted = processor_file(states, "motion", [f"{OFFICIAL}.attention_blocks.0"])
    middle, wanted_in_middle = processor_file(v2, "motion", [f"{MIDDLE}.attention_blocks.0"])
    path = write(tmp_path / "l.safetensors", rest | middle)
    assert_changed(merge(v2, path, scale=1, family="motion_lora"), v2, wanted | wanted_in_middle)
    assert not caplog.records
    assert_changed(merge(states, path, scale=1, family="motion_lora"), states, wanted)
    assert "mid block" in caplog.text
    # Nothing else is left out with it; a mid block that is there takes all of it; and something must be left.
    astray = {name: tensor.clone() for name, tensor in respelled(rest, ("down_blocks.0", "down_blocks.9")).items()}
    odd = respelled(middle, ("attention_blocks.0", "attention_blocks.7"))
    spatial, _ = processor_file(states, "unet", ["mid_block.attentions.0.transformer_blocks.0.attn1"])
    refused = [(states, rest | middle | astray), (v2, rest | odd), (states, middle), (states, rest | middle | spatial)]
    for its_states, tensors in refused:
        with pytest.raises(UserError, match="match nothing in the model"):
            lora_file.read_deltas(write(tmp_path / "m.safetensors", tensors), its_states, family="motion_lora")


ADAPTER_LAYOUTS = {
    "official": (),
    "diffusers": (("^", "unet."), *MOTION_LAYOUTS["diffusers"][len(TO_DIFFUSERS) :]),
    "kohya": (
        (r"\.processor\.to_out", ".processor.to_out_0"),
        (r"\.processor", ""),
        (r"_lora\.(down|up)\.weight", r"|lora_\1|weight"),
        (r"\.", "_"),
        (r"\|", "."),
        ("^", "lora_unet_"),
    ),
}


@pytest.mark.parametrize("layout", ADAPTER_LAYOUTS)
@pytest.mark.parametrize("family", ["domain_adapter", "lora"])
def test_domain_adapters(tmp_path, states, layout, family):
    tensors, wanted = processor_file(states, "unet", [f"{BLOCK}.attn{i}" for i in (1, 2)], rank=128, scale=0.1)
    path = write(tmp_path / "l.safetensors", respelled(tensors, *ADAPTER_LAYOUTS[layout]))
    assert_changed(merge(states, path, scale=0.1, family=family), states, wanted, atol=3e-6)
