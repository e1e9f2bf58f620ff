"""Trained adapters as files: what they do through hooks, the file does to weights, and every reader knows it."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from animatediff.diffusion.conditioning import Conditioning
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.sprites import shipped
from animatediff.weights import motion_modules
from animatediff.weights.adapters import read_into, write
from animatediff.weights.base import load_unet
from animatediff.weights.identify.weights_file import identify, identify_uri
from animatediff.weights.layouts.architectures import meta_modules
from animatediff.weights.lora.convert import convert
from animatediff.weights.reading.tensors import TensorFile
from animatediff.weights.resident import ResidentWeights, ScaledLora
from tests.support_base import build_base
from tests.support_lora import OFFICIAL, draw, respelled
from tests.support_lora import write as save
from tests.support_weights import tiny_sdxl

RANK = 4
FAMILIES = {"motion": "motion_lora", "unet": "domain_adapter"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(params=FAMILIES)
def part(request):
    return request.param


@pytest.fixture(params=["tiny", "sprites"])
def model(request, folder):
    """Frozen models of Stable Diffusion's depth in miniature and of the sprite world's size."""
    if request.param == "sprites":
        unet = MotionUNet(load_unet(str(shipped.BASE)), motion_modules.read(str(shipped.MOTION_MODULE)))
    else:
        torch.manual_seed(0)
        unet = MotionUNet(load_unet(str(folder)), MotionConfig(num_heads=4, norm_num_groups=8))
        for name, parameter in unet.motion.named_parameters():
            if "proj_out" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return unet.requires_grad_(False)


def host_of(model, part):
    return model.motion if part == "motion" else model.base


def attach(model, part, rank=RANK):
    if part == "motion":
        return LowRankAdapters.for_motion(model.motion, rank)
    return LowRankAdapters.for_base(model.base, rank)


def trained(adapters, std=0.1):
    """The adapters as if after training."""
    for seed, parameter in enumerate(adapters.parameters()):
        parameter.data = std * draw(*parameter.shape, seed=seed)
    return adapters


@torch.no_grad()
def predict(model):
    channels, width = model.base.config.in_channels, model.base.config.cross_attention_dim
    return model(draw(2, channels, 3, 8, 8), torch.tensor([3, 900]), Conditioning(draw(2, 5, width, seed=1)))


def error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def saved(path, adapters):
    write(str(path), adapters, metadata={})
    return str(path)


def test_the_merged_file_does_what_the_adapters_did(tmp_path, model, part):
    before = predict(model)
    adapters = trained(attach(model, part))
    path = saved(tmp_path / "l.safetensors", adapters)
    through_hooks = predict(model)
    adapters.detach()
    resident = ResidentWeights({"unet": model.base, "motion": model.motion})
    resident.load(scaled_loras=[ScaledLora(path, 1.0, FAMILIES[part])])
    assert error(predict(model), through_hooks) < 1e-5
    assert error(before, through_hooks) > 1e-2
    resident.restore()
    assert torch.equal(predict(model), before)


def test_a_file_is_told_for_what_it_is(tmp_path, model, part):
    found = identify_uri(saved(tmp_path / "l.safetensors", attach(model, part)))
    assert found.family == FAMILIES[part]
    assert (found.rank, found.alpha, found.dtype) == (str(RANK), None, "float32")
    assert found.layout == {"motion": "official", "unet": "diffusers attention processors"}[part]
    assert found.parameters == sum(parameter.numel() for parameter in attach(model, part).parameters())


def test_full_sizes_are_told_for_what_they_are(part):
    unet = meta_modules("sd1")["unet"]
    with torch.device("meta"):
        model = MotionUNet(unet, MotionConfig.for_version("v2"))
    found = identify(TensorFile("x", attach(model, part, {"motion": 64, "unet": 128}[part]).state_dict()))
    assert (found.family, found.base) == (FAMILIES[part], "sd1")
    assert found.version == ("v2" if part == "motion" else None)


def test_a_file_comes_back_bit_for_bit(tmp_path, model, part):
    adapters = trained(attach(model, part))
    path = saved(tmp_path / "l.safetensors", adapters)
    again = attach(model, part)
    read_into(path, again, host_of(model, part))
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in adapters.state_dict().items())
    saved(tmp_path / "m.safetensors", again)
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "l.safetensors").read_bytes()
    assert load_file(path).keys() == state.keys()


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
def test_metadata_is_kept(tmp_path, model, part):
    write(str(tmp_path / "l.safetensors"), attach(model, part), metadata={"author": "somebody"})
    with safe_open(tmp_path / "l.safetensors", "pt") as file:
        assert file.metadata()["author"] == "somebody"


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
def test_diffusers_layout_is_taken_as_well(tmp_path, model, part):
    adapters = trained(attach(model, part))
    path, converted = saved(tmp_path / "l.safetensors", adapters), str(tmp_path / "d.safetensors")
    convert(path, converted, to="diffusers")
    again = attach(model, part)
    read_into(converted, again, host_of(model, part))
    state = again.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in adapters.state_dict().items())


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
def test_alphas_become_a_part_of_up(tmp_path, model):
    adapters = trained(attach(model, "unet"))
    pairs = respelled(adapters.state_dict(), (r"\.processor", ""), (r"_lora\.(down|up)", r".lora_\1"))
    alphas = {
        name.replace("lora_down.weight", "alpha"): torch.tensor(RANK / 2) for name in pairs if "lora_down" in name
    }
    again = attach(model, "unet")
    read_into(save(tmp_path / "l.safetensors", pairs | alphas), again, model.base)
    for name, tensor in adapters.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor / 2 if ".up." in name else tensor)


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
def test_half_precision_files_become_float32(tmp_path, model, part):
    adapters = trained(attach(model, part)).half()
    again = attach(model, part)
    read_into(saved(tmp_path / "l.safetensors", adapters), again, host_of(model, part))
    for name, tensor in adapters.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.float())


def of_another_rank(state, _):
    return {name: tensor[:2] if ".down." in name else tensor[:, :2] for name, tensor in state.items()}


def of_a_part(state, _):
    return dict(list(state.items())[2:])


def with_a_bias(state, part):
    module = "down_blocks.0.attentions.0.transformer_blocks.0.norm1" if part == "unet" else f"{OFFICIAL}.norms.0"
    return state | {f"{module}.diff_b": torch.ones(next(iter(state.values())).shape[1])}


def with_a_loha(state, _):
    (key, down), (_, up), *rest = state.items()
    module = key.replace(".processor", "").removesuffix("_lora.down.weight")
    factors = {"a": up, "b": down}
    return dict(rest) | {f"{module}.hada_w{i}_{side}": factors[side].clone() for i in (1, 2) for side in "ab"}


REFUSED = {
    "another rank": (of_another_rank, f"is of rank 2, the adapters to be trained of {RANK}: set the file's"),
    "a part of the matrices": (of_a_part, r"has no .*_lora \(1 such missing\)"),
    "another matrix": (with_a_bias, r"norm.*bias \(1 such\), which is not trained"),
    "another algorithm": (with_a_loha, "other factors than up and down"),
}


def add_to_base(unet, uri, scale=1.0):
    ResidentWeights({"unet": unet}).load(scaled_loras=[ScaledLora(uri, scale, "domain_adapter")])


@pytest.mark.parametrize("model", ["tiny"], indirect=True)
@pytest.mark.parametrize("case", REFUSED)
def test_files_that_training_cannot_start_from_are_refused_in_one_line(tmp_path, model, part, case):
    change, message = REFUSED[case]
    path = save(tmp_path / "l.safetensors", change(trained(attach(model, part)).state_dict(), part))
    adapters = attach(model, part)
    before = {name: tensor.clone() for name, tensor in adapters.state_dict().items()}
    with pytest.raises(UserError, match=message) as refusal:
        read_into(path, adapters, host_of(model, part))
    assert "\n" not in str(refusal.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in adapters.state_dict().items())


def test_a_file_of_the_other_kind_is_refused(tmp_path, model, part):
    before = predict(model)
    path = saved(tmp_path / "l.safetensors", attach(model, {"motion": "unet", "unet": "motion"}[part]))
    message = {"motion": "is a domain adapter.*, not a MotionLoRA", "unet": "is a .*MotionLoRA.*, not a domain adapter"}
    with pytest.raises(UserError, match=message[part]):
        read_into(path, attach(model, part), host_of(model, part))
    if part == "unet":
        with pytest.raises(UserError, match=message[part]):
            add_to_base(model.base, path)
    assert torch.equal(predict(model), before)


def test_a_v2_motion_lora_starts_one_for_motion_modules_without_a_mid_block(tmp_path, folder):
    base = load_unet(str(folder))
    config = MotionConfig(norm_num_groups=8, use_mid_block=True)
    v2 = trained(LowRankAdapters.for_motion(MotionModules.for_base(base, config), RANK))
    v3 = MotionModules.for_base(base, config.model_copy(update={"use_mid_block": False}))
    adapters = LowRankAdapters.for_motion(v3, RANK)
    read_into(saved(tmp_path / "l.safetensors", v2), adapters, v3)
    assert all(torch.equal(v2.state_dict()[name], tensor) for name, tensor in adapters.state_dict().items())


def test_sdxl_takes_its_own(tmp_path):
    unet = tiny_sdxl()["unet"]
    adapters = trained(LowRankAdapters.for_base(unet, RANK))
    path = saved(tmp_path / "l.safetensors", adapters)
    again = LowRankAdapters.for_base(unet, RANK)
    read_into(path, again, unet)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in adapters.state_dict().items())


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_domain_adapter_is_added_to_a_base_at_any_strength(tmp_path, model, scale):
    adapters = trained(attach(model, "unet"))
    path = saved(tmp_path / "l.safetensors", adapters)
    for name, parameter in adapters.named_parameters():
        if ".up." in name:
            parameter.data *= scale
    through_hooks = predict(model)
    adapters.detach()
    add_to_base(model.base, path, scale)
    assert error(predict(model), through_hooks) < 1e-5


def test_a_lora_that_changes_more_is_no_start_for_a_domain_adapter():
    unet = load_unet(str(shipped.BASE))
    with pytest.raises(UserError, match="chalk_style.* which is not trained"):
        read_into(str(shipped.CHALK_LORA), LowRankAdapters.for_base(unet, 8), unet)
