"""Alphas where peft keeps them: what peft and diffusers save is what they apply themselves."""

import json
import logging
import re

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from animatediff.errors import UserError
from animatediff.weights.base import load_text_encoder, load_unet
from animatediff.weights.lora import lora_file, module_scales
from animatediff.weights.reading.tensors import TensorFile
from tests.support_base import build_base
from tests.support_lora import ATTENTION, assert_changed, draw, expected, merge, write

TARGETS = ["to_q", "to_out.0", "ff.net.2", "conv1", "proj_in"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def states(base):
    return {"unet": load_unet(base).state_dict(), "text_encoder": load_text_encoder(base)[1].state_dict()}


def randomised(model):
    """Every adapter's factors drawn anew: peft starts one of them at zero."""
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(model.named_parameters()):
            if re.search("lora_|hada_|lokr_", name):
                parameter.copy_(draw(*parameter.shape, seed=seed) / 4)
    return model


def deltas(model):
    """What peft adds to each weight."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if any(hasattr(module, kind) for kind in ("lora_A", "hada_w1_a", "lokr_w1"))
    }


def assert_changes(changes, part, wanted):
    changes = {name: change for (its_part, name), change in changes.items() if its_part == part}
    assert changes.keys() == {f"{name}.weight" for name in wanted}
    for name, delta in wanted.items():
        change = changes[f"{name}.weight"].to_dense().reshape(delta.shape)
        torch.testing.assert_close(change, delta, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=4, lora_alpha=6),
        peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True),
        peft.LoraConfig(
            r=4,
            lora_alpha=6,
            rank_pattern={f"{ATTENTION}.to_q": 3, "conv1": 2},
            alpha_pattern={f"^{ATTENTION}.to_q": 5, "attn2.to_q": 7, "to_q": 9},
        ),
        peft.LoHaConfig(r=3, alpha=5),
        peft.LoHaConfig(r=3, alpha=5, use_effective_conv2d=True, alpha_pattern={"conv1": 2}),
        peft.LoKrConfig(r=2, alpha=5),
        peft.LoKrConfig(r=2, alpha=5, use_effective_conv2d=True, decompose_both=True, decompose_factor=4),
        peft.LoKrConfig(r=16, alpha=5, rank_pattern={"conv1": 32}),
    ],
    ids=["LoRA", "rsLoRA", "patterns", "LoHa", "LoHa with core", "LoKr", "LoKr of pairs", "LoKr of whole matrices"],
)
def test_what_peft_saves_is_what_peft_applies(tmp_path, base, states, config):
    config.target_modules = TARGETS
    model = randomised(peft.get_peft_model(load_unet(base), config))
    model.save_pretrained(tmp_path)
    wanted = deltas(model)
    assert len(wanted) > 50
    for uri in (tmp_path, tmp_path / "adapter_model.safetensors"):
        assert_changes(lora_file.read_deltas(str(uri), states, family="lora"), "unet", wanted)


def test_a_text_encoder_that_peft_saved(tmp_path, base, states):
    names = {"encoder.layers.1.self_attn.q_proj": 3}
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], alpha_pattern=names)
    model = randomised(peft.get_peft_model(load_text_encoder(base)[1], config))
    model.save_pretrained(tmp_path)
    # transformers 4, whose names are in most files, has `text_model.` in front.
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors = {
        name.replace(".model.encoder.", ".model.text_model.encoder."): tensor for name, tensor in tensors.items()
    }
    assert all("text_model." in name for name in tensors)
    write(tmp_path / "adapter_model.safetensors", tensors)
    wanted = {name.removeprefix("text_model."): delta for name, delta in deltas(model).items()}
    changes = lora_file.read_deltas(str(tmp_path), states, family="lora")
    plain = {(part, name.removeprefix("text_model.")): change for (part, name), change in changes.items()}
    assert_changes(plain, "text_encoder", wanted)


def test_peft_without_its_config_is_taken_at_its_rank_and_said_so(tmp_path, base, states, caplog):
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    model = randomised(peft.get_peft_model(load_unet(base), config))
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        changes = lora_file.read_deltas(str(tmp_path), states, family="lora")
    assert_changes(changes, "unet", {name: delta / 2 for name, delta in deltas(model).items()})
    assert "adapter_config.json" in caplog.text


def test_what_diffusers_saves_keeps_the_alphas_of_each_part(tmp_path, base, states):
    pipe = StableDiffusionPipeline.from_pretrained(base)
    configs = {
        "unet": peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["to_q", "to_v"], alpha_pattern={f"{ATTENTION}.to_v": 2}
        ),
        "text_encoder": peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"]),
    }
    saved = {}
    for part, config in configs.items():
        module = getattr(pipe, part)
        module.add_adapter(config)
        saved[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(randomised(module))
        saved[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(tmp_path, **saved)
    for uri in (tmp_path, tmp_path / "pytorch_lora_weights.safetensors"):
        changes = lora_file.read_deltas(str(uri), states, family="lora")
        for part in configs:
            assert_changes(changes, part, deltas(getattr(pipe, part)))


def test_the_adapter_of_one_part_that_diffusers_saved(tmp_path, base, states):
    unet = load_unet(base)
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"]))
    randomised(unet).save_lora_adapter(tmp_path)
    assert_changes(lora_file.read_deltas(str(tmp_path), states, family="lora"), "unet", deltas(unet))


PAIR = {f"unet.{ATTENTION}.to_q.lora_A.weight": (2, 32), f"unet.{ATTENTION}.to_q.lora_B.weight": (32, 2)}


def pair_file(path, adapter, **more):
    tensors = {name: draw(*shape) for name, shape in PAIR.items()} | more
    return write(path, tensors, {"lora_adapter_metadata": adapter})


def test_an_alpha_beside_the_factors_comes_first(tmp_path, states):
    adapter = json.dumps({"unet.r": 2, "unet.lora_alpha": 8, "text_encoder.r": 2, "text_encoder.lora_alpha": 6})
    name = f"{ATTENTION}.to_q.weight"
    for more, scale in (({}, 8 / 2), ({f"unet.{ATTENTION}.to_q.alpha": torch.tensor(3.0)}, 3 / 2)):
        path = pair_file(tmp_path / "l.safetensors", adapter, **more)
        wanted = {("unet", name): expected(states["unet"][name], draw(2, 32), draw(32, 2), scale)}
        assert_changed(merge(states, path, scale=1), states, wanted)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ('{"unet.r": 2', "lora_adapter_metadata of .* is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "holds a list"),
        ('{"unet.r": 0, "unet.lora_alpha": 1}', "r: .*greater than 0"),
        (f'{{"unet.r": 1{"0" * 400}, "unet.lora_alpha": 1}}', "r: .*less than"),
        (f'{{"unet.r": 2, "unet.lora_alpha": 1{"0" * 400}}}', "alpha: .*number"),
        ('{"unet.r": 2}', "lora_alpha: .*required"),
        ('{"unet.r": 2, "unet.lora_alpha": NaN}', "alpha: .*finite"),
        ('{"unet.r": 2, "unet.lora_alpha": 1e999}', "alpha: .*finite"),
        (
            '{"unet.r": 2, "unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+$": 1}}',
            "regular expressions are not read",
        ),
        (
            '{"unet.r": 2, "unet.lora_alpha": 1, "unet.rank_pattern": {"to_q": 0}}',
            "rank_pattern.to_q: .*greater than 0",
        ),
        ('{"unet.r": 2, "unet.lora_alpha": 1, "unet.use_dora": true}', "is of the kind DoRA, and l.safetensors has no"),
        ('{"unet.r": 2, "unet.lora_alpha": 1, "unet.peft_type": "VERA"}', "peft's VERA, which is not applied"),
    ],
)
def test_configs_that_are_broken(adapter, message):
    file = TensorFile("l.safetensors", {}, {"lora_adapter_metadata": adapter})
    with pytest.raises(UserError, match=message) as caught:
        module_scales.read_peft_config(file, "unet")
    assert "\n" not in str(caught.value)


def test_dora_is_refused_though_its_magnitudes_are_lost(tmp_path, states):
    """They decide what the factors do, so that these alone are another change."""
    write(tmp_path / "adapter_model.safetensors", {name: draw(*shape) for name, shape in PAIR.items()})
    config = tmp_path / "adapter_config.json"
    for use_dora in (False, None):
        config.write_text(json.dumps({"r": 2, "lora_alpha": 2, "use_dora": use_dora}))
        assert len(lora_file.read_deltas(str(tmp_path), states, family="lora")) == 1
    config.write_text(json.dumps({"r": 2, "lora_alpha": 2, "use_dora": True}))
    with pytest.raises(UserError, match="adapter_config.json is of the kind DoRA"):
        lora_file.read_deltas(str(tmp_path), states, family="lora")
