"""Trainable low-rank adapters: what they add is the sum that they stand for, and nothing else about a host changes."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.config import MotionConfig
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.sprites.models.parts import make_unet
from animatediff.weights.layouts.architectures import meta_modules

RANK = 3
PARTS = ("motion", "unet")


@pytest.fixture
def model():
    """A frozen model whose motion modules do move."""
    torch.manual_seed(0)
    base = make_unet([16, 32], layers_per_block=1, latent_channels=4, latent_size=8, text_width=24)
    model = MotionUNet(base, MotionConfig(num_heads=4, norm_num_groups=8))
    for name, parameter in model.motion.named_parameters():
        if "proj_out" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


@pytest.fixture(params=PARTS)
def part(request):
    return request.param


def host_of(model, part):
    return model.motion if part == "motion" else model.base


def attach(model, part, rank=RANK):
    if part == "motion":
        return LowRankAdapters.for_motion(model.motion, rank)
    return LowRankAdapters.for_base(model.base, rank)


def trained(adapters, std=0.2):
    """The adapters as if after training: none of them is zero any more."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapters.named_parameters():
        if ".up." in name:
            parameter.data = std * torch.randn(parameter.shape, generator=generator)
    return adapters


def merged(host, adapters):
    """The host's state dict with every adapter's product added."""
    state = {name: tensor.clone() for name, tensor in host.state_dict().items()}
    factors = adapters.state_dict()
    for name in factors:
        if name.endswith(".down.weight"):
            path = name.replace(".processor", "").replace("_lora.down.weight", "")
            path += ".0" if path.endswith("to_out") else ""
            state[f"{path}.weight"] += factors[name.replace(".down.", ".up.")] @ factors[name]
    return state


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(2, 4, 3, 8, 8, generator=generator)
    text = torch.randn(2, 5, 24, generator=generator).to(dtype)
    return sample.to(dtype), torch.tensor([3, 900]), Conditioning(text)


def gradients(adapters, call):
    adapters.zero_grad()
    call(*inputs()).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in adapters.named_parameters()}


@torch.no_grad()
def test_fresh_adapters_change_no_bit(model, part):
    before = model(*inputs())
    adapters = attach(model, part)
    assert torch.equal(model(*inputs()), before)
    trained(adapters)
    assert not torch.allclose(model(*inputs()), before, rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_what_they_add_is_the_sum_of_weights(model, part):
    adapters = trained(attach(model, part))
    through_hooks = model(*inputs())
    state = merged(host_of(model, part), adapters)
    adapters.detach()
    host_of(model, part).load_state_dict(state)
    torch.testing.assert_close(through_hooks, model(*inputs()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_texts", [1, 2, 6], ids="texts{}".format)
@torch.no_grad()
def test_they_count_in_every_branch_of_the_attention_processors(model, num_texts):
    attention = model.base.mid_block.attentions[0].transformer_blocks[0].attn2
    frames, text = torch.randn(6, 16, 32), torch.randn(num_texts, 5, 24)
    before = attention(frames, encoder_hidden_states=text)
    adapters = trained(attach(model, "unet"))
    through_hooks = attention(frames, encoder_hidden_states=text)
    state = merged(model.base, adapters)
    adapters.detach()
    model.base.load_state_dict(state)
    torch.testing.assert_close(through_hooks, attention(frames, encoder_hidden_states=text), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(through_hooks, before, rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_they_count_in_an_unet_without_motion_modules():
    """Under diffusers' own attention processors and its own forward."""
    unet = make_unet([16, 32], layers_per_block=1, latent_channels=4, latent_size=8, text_width=24)
    sample, timestep, text = torch.randn(2, 4, 8, 8), 5, torch.randn(2, 5, 24)
    adapters = trained(LowRankAdapters.for_base(unet, RANK))
    through_hooks = unet(sample, timestep, text).sample
    state = merged(unet, adapters)
    adapters.detach()
    unet.load_state_dict(state)
    torch.testing.assert_close(through_hooks, unet(sample, timestep, text).sample, rtol=1e-5, atol=1e-5)


def test_the_host_keeps_its_state_dict_and_classes(model, part):
    names, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    attach(model, part)
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == classes


@torch.no_grad()
def test_detached_they_leave_no_trace(model, part):
    before = model(*inputs())
    trained(attach(model, part)).detach()
    assert torch.equal(model(*inputs()), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_up_is_zero_and_down_is_drawn_uniformly_from_the_global_generator(model, part):
    torch.manual_seed(5)
    first = attach(model, part).state_dict()
    torch.manual_seed(5)
    second = attach(model, part).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, weight in first.items():
        assert weight.dtype == torch.float32
        if ".up." in name:
            assert weight.shape[1] == RANK
            assert not weight.any()
        else:
            assert weight.shape[0] == RANK
            assert 0.5 < weight.abs().max() * weight.shape[1] ** 0.5 <= 1


def test_only_adapters_get_gradients(model, part):
    adapters = trained(attach(model, part))
    model(*inputs()).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adapters.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_step_on_fresh_adapters_lowers_the_loss(model, part):
    adapters = attach(model, part)
    optimizer = torch.optim.SGD(adapters.parameters(), lr=0.5)
    losses = []
    for _ in range(4):
        loss = model(*inputs()).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


def test_checkpointing_gives_the_same_gradients(model, part):
    adapters = trained(attach(model, part))
    plain = gradients(adapters, model)
    repeated = gradients(adapters, lambda *given: checkpoint(model, *given, use_reentrant=False))
    assert plain.keys() == repeated.keys()
    assert all(torch.equal(plain[name], repeated[name]) for name in plain)


@pytest.mark.parametrize(
    ("dtype", "base_dtype"),
    [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)],
    ids=str,
)
def test_under_autocast_results_are_of_its_precision_and_gradients_of_float32(model, part, dtype, base_dtype):
    adapters = trained(attach(model, part))
    exact = gradients(adapters, model)
    model.base.to(base_dtype)
    with torch.autocast("cpu", dtype):
        rounded = gradients(adapters, model)
        assert model(*inputs()).dtype == dtype
    for name, gradient in rounded.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() < 0.2 * exact[name].norm(), name


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_without_autocast_results_are_of_the_hosts_precision(model, part, is_checkpointed):
    adapters = trained(attach(model, part))
    exact = model(*inputs())
    model.to(torch.bfloat16)
    given = inputs(torch.bfloat16)
    rounded = checkpoint(model, *given, use_reentrant=False) if is_checkpointed else model(*given)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.05 * exact.norm()
    rounded.square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in adapters.parameters())


class Trained(nn.Module):
    def __init__(self, model, adapters):
        super().__init__()
        self.model = model
        self.adapters = adapters

    def forward(self, *given):
        return checkpoint(self.model, *given, use_reentrant=False)


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_in_distributed_data_parallel_every_adapter_gets_its_gradient(model, part):
    adapters = trained(attach(model, part))
    plain = gradients(adapters, model)
    wrapped = DistributedDataParallel(Trained(model, adapters), init_sync=False, broadcast_buffers=False)
    for _ in range(2):  # the second step is refused if the first left out a parameter
        distributed = gradients(adapters, wrapped)
    assert all(torch.equal(plain[name], distributed[name]) for name in plain)


@torch.no_grad()
def test_a_copy_of_a_model_has_its_own_adapters(model, part):
    whole = Trained(model, trained(attach(model, part)))
    copied = copy.deepcopy(whole)
    before = whole(*inputs())
    trained(copied.adapters, std=0.5)
    assert torch.equal(whole(*inputs()), before)
    assert not torch.allclose(copied(*inputs()), before, rtol=1e-2, atol=1e-3)


def test_attention_to_the_caption_has_no_adapters(model):
    config = MotionConfig(num_heads=4, norm_num_groups=8, text_width=24)
    names = LowRankAdapters.for_motion(MotionModules.for_base(model.base, config), RANK).state_dict()
    assert names.keys() == attach(model, "motion").state_dict().keys()


def test_published_sizes_and_names():
    unet = meta_modules("sd1")["unet"]
    with torch.device("meta"):
        motion = MotionModules.for_base(unet, MotionConfig.for_version("v2"))
    motion_lora = LowRankAdapters.for_motion(motion, 64).state_dict()
    domain_adapter = LowRankAdapters.for_base(unet, 128).state_dict()
    assert sum(tensor.numel() for tensor in motion_lora.values()) == 19_333_120
    assert sum(tensor.numel() for tensor in domain_adapter.values()) == 25_509_888
    block = "up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0"
    assert motion_lora[f"{block}.attention_blocks.1.processor.to_out_lora.up.weight"].shape == (320, 64)
    block = "up_blocks.3.attentions.2.transformer_blocks.0"
    assert domain_adapter[f"{block}.attn2.processor.to_k_lora.down.weight"].shape == (128, 768)


def test_a_rank_below_one_and_a_model_without_attention_are_refused(model, part):
    with pytest.raises(ValueError, match="rank 0: it must be at least 1"):
        attach(model, part, rank=0)
    with pytest.raises(ValueError, match="no attention"):
        LowRankAdapters(part, RANK, [])
