"""MotionLoRAs and domain adapters in the official layout and in diffusers', there and back."""

import json
import re

import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.base import load_unet
from animatediff.weights.convert import convert as convert_any
from animatediff.weights.lora import lora_file
from animatediff.weights.lora.convert import convert
from tests.support_base import build_base
from tests.support_lora import ATTENTION, BLOCK, CONV, OFFICIAL, draw, flat, kohya, processor_file, respelled, write


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base", layers_per_block=2))


@pytest.fixture(scope="module")
def states(base):
    unet = load_unet(base)
    motion = MotionModules.for_base(unet, MotionConfig(norm_num_groups=8))
    return {"unet": unet.state_dict(), "motion": motion.state_dict()}


@pytest.fixture(scope="module")
def animate(base):
    """diffusers' pipeline with a motion module on the same base."""
    pipe = StableDiffusionPipeline.from_pretrained(base)
    adapter = MotionAdapter(block_out_channels=(32, 64, 64, 64), motion_norm_num_groups=8, use_motion_mid_block=False)
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    return AnimateDiffPipeline(**parts, motion_adapter=adapter)


def fused(pipe, path, scale):
    """What diffusers' own loader adds to each weight of the UNet."""
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    pipe.load_lora_weights(path)
    pipe.fuse_lora(components=["unet"], lora_scale=scale)
    pipe.unload_lora_weights()
    after = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(before)
    return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


def there_and_back(folder, tensors, metadata=None):
    """Paths of the file, of it in diffusers' layout, and of that in the official one."""
    paths = [str(folder / f"{name}.safetensors") for name in ("given", "diffusers", "official")]
    write(paths[0], tensors, metadata)
    convert(paths[0], paths[1], to="diffusers")
    convert(paths[1], paths[2], to="official")
    back = load_file(paths[2])
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    return paths


def diffusers_name(name):
    name = name.replace(".temporal_transformer", "")
    return re.sub(r"attention_blocks\.(\d)", lambda match: f"attn{int(match[1]) + 1}", name)


FILES = {
    "motion_lora": ("motion", [f"{OFFICIAL}.attention_blocks.{i}" for i in (0, 1)]),
    "domain_adapter": ("unet", [f"{BLOCK}.attn{i}" for i in (1, 2)]),
}


@pytest.mark.parametrize("family", FILES)
def test_a_converted_file_opens_in_diffusers_and_comes_back(tmp_path, states, animate, family):
    part, attentions = FILES[family]
    tensors, wanted = processor_file(states, part, attentions, rank=4)
    paths = there_and_back(tmp_path, tensors, {"author": "somebody"})
    with safe_open(paths[2], "pt") as file:
        assert file.metadata() == {"author": "somebody"}
    assert all(re.fullmatch(r"unet\..+\.to_(q|k|v|out\.0)\.lora_[AB]\.weight", name) for name in load_file(paths[1]))
    found = fused(animate, paths[1], 0.8)
    assert found.keys() == {diffusers_name(name) for _, name in wanted}
    for (_, name), value in wanted.items():
        change = value - states[part][name].double()
        torch.testing.assert_close(found[diffusers_name(name)].double(), 0.8 * change, atol=2e-6, rtol=1e-5, msg=name)
    for path in paths:
        assert lora_file.read_deltas(path, states, family=family).keys() == wanted.keys()


def test_half_precision_and_motion_directors_feed_forward(tmp_path):
    key = f"{OFFICIAL}.ff.net.0.processor.proj_lora"
    tensors = {f"{key}.down.weight": draw(2, 32).half(), f"{key}.up.weight": draw(256, 2).half()}
    paths = there_and_back(tmp_path, tensors)
    diffusers = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.ff.net.0.proj"
    assert load_file(paths[1]).keys() == {f"{diffusers}.lora_A.weight", f"{diffusers}.lora_B.weight"}


def test_a_published_pickle_becomes_safetensors(tmp_path, states):
    tensors, _ = processor_file(states, "motion", [f"{OFFICIAL}.attention_blocks.0"])
    torch.save({"state_dict": tensors}, tmp_path / "l.ckpt")
    convert(str(tmp_path / "l.ckpt"), str(tmp_path / "l.safetensors"), to="official")
    assert {name: t.tolist() for name, t in load_file(tmp_path / "l.safetensors").items()} == {
        name: t.tolist() for name, t in tensors.items()
    }


KEY = f"unet.{ATTENTION}.to_q"
PAIR = {f"{KEY}.lora_A.weight": draw(2, 32), f"{KEY}.lora_B.weight": draw(32, 2)}
REFUSED = {
    "peft's alpha": (PAIR, json.dumps({"unet.r": 2, "unet.lora_alpha": 3}), "rank 2 and alpha 3"),
    "alpha": (PAIR | {f"{KEY}.alpha": torch.tensor(4.0)}, "{}", "rank 2 and alpha 4: converted files have no alpha"),
    "alpha of NaN": (PAIR | {f"{KEY}.alpha": torch.tensor(float("nan"))}, "{}", "alpha is no finite number"),
    "NaN": ({name: tensor * float("nan") for name, tensor in PAIR.items()}, "{}", "holds NaN"),
    "a ResNet": ({n.replace(f"{ATTENTION}.to_q", CONV): t for n, t in PAIR.items()}, "{}", "neither layout has a name"),
    "kohya's ResNet": (kohya(f"lora_unet_{flat(CONV)}", draw(2, 32), draw(32, 2)), "{}", "neither layout has a name"),
    "kohya's MotionLoRA": (
        kohya(f"lora_unet_{flat(OFFICIAL)}_attention_blocks_0_to_q", draw(2, 32), draw(32, 2)),
        "{}",
        "kohya's layout, .*: it needs no conversion",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, case):
    tensors, adapter, message = REFUSED[case]
    path = write(tmp_path / "l.safetensors", tensors, {"lora_adapter_metadata": adapter})
    with pytest.raises(UserError, match=message):
        convert(path, str(tmp_path / "out.safetensors"), to="official")
    assert not (tmp_path / "out.safetensors").exists()


def test_an_alpha_that_is_the_rank_is_no_loss(tmp_path):
    path = write(tmp_path / "l.safetensors", PAIR | {f"{KEY}.alpha": torch.tensor(2.0)})
    convert(path, str(tmp_path / "out.safetensors"), to="official")
    assert load_file(tmp_path / "out.safetensors").keys() == {
        f"{ATTENTION}.processor.to_q_lora.{side}.weight" for side in ("down", "up")
    }


def test_a_domain_adapter_in_kohyas_names(tmp_path, states):
    """As A1111's extension publishes v3's: the official file under flat names."""
    tensors, wanted = processor_file(states, "unet", [f"{BLOCK}.attn{i}" for i in (1, 2)], rank=128)
    named = respelled(
        tensors, (r"\.processor", ""), ("to_out_lora", "to_out_0_lora"), (r"_lora\.", "#"), (r"\.(?=.*#)", "_")
    )
    named = {"lora_unet_" + name.replace("#", ".lora_"): tensor for name, tensor in named.items()}
    given, out = write(tmp_path / "given.safetensors", named), str(tmp_path / "official.safetensors")
    assert lora_file.read_deltas(given, states, family="domain_adapter").keys() == wanted.keys()
    assert convert_any(given, out, to="official").family == "domain_adapter"
    back = load_file(out)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    convert_any(given, str(tmp_path / "diffusers.safetensors"), to="diffusers")
    assert f"unet.{BLOCK}.attn2.to_out.0.lora_B.weight" in load_file(tmp_path / "diffusers.safetensors")


def test_a_pickle_whose_factors_share_memory(tmp_path):
    down, up = draw(2, 32), draw(32, 2)
    names = [f"{ATTENTION}.processor.to_{name}_lora" for name in "qk"]
    torch.save(
        {f"{name}.{side}.weight": tensor for name in names for side, tensor in (("down", down), ("up", up))},
        tmp_path / "l.ckpt",
    )
    convert(str(tmp_path / "l.ckpt"), str(tmp_path / "l.safetensors"), to="official")
    back = load_file(tmp_path / "l.safetensors")
    assert len(back) == 4
    assert all(torch.equal(back[f"{name}.down.weight"], down) for name in names)


def test_a_repeated_prefix(tmp_path):
    path = write(tmp_path / "l.safetensors", {f"unet.{name}": tensor for name, tensor in PAIR.items()})
    convert(path, str(tmp_path / "out.safetensors"), to="diffusers")
    assert load_file(tmp_path / "out.safetensors").keys() == PAIR.keys()
