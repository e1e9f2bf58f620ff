import copy
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import FeedForward
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.config import MotionConfig
from animatediff.models.feed_forward import MemoryEfficientFeedForward, use_memory_efficient_feed_forward
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_module import MotionModule, TemporalAttention, sinusoidal_positions
from animatediff.models.motion_unet import MotionModules, MotionUNet

SD = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64, 64),
    "cross_attention_dim": 24,
    "attention_head_dim": 8,
}
SDXL = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64),
    "cross_attention_dim": 24,
    "attention_head_dim": (2, 4, 8),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 64,
}
NUM_FRAMES = 5


def make_unet(version):
    torch.manual_seed(0)
    return UNet2DConditionModel(**(SDXL if version == "sdxl" else SD))


def make_inputs(version, size=(8, 8), seed=1):
    g = torch.Generator().manual_seed(seed)
    sample = torch.randn(2, 4, NUM_FRAMES, *size, generator=g)
    text = torch.randn(2, 7, 24, generator=g)
    added = torch.randn(2, 16, generator=g), torch.rand(2, 6, generator=g)
    return sample, 800, Conditioning(text, *added) if version == "sdxl" else Conditioning(text)


def randomise(motion):
    torch.manual_seed(2)
    for name, parameter in motion.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (10, 14)], ids=str)
@pytest.mark.parametrize("version", ["v2", "v3", "sdxl"])
@torch.no_grad()
def test_fresh_motion_module_is_the_base_bit_for_bit(version, size, memory_format):
    base = make_unet(version).to(memory_format=memory_format)
    sample, timestep, told = make_inputs(version, size)
    frames = sample.transpose(1, 2).flatten(0, 1)
    per_frame = {name: value.repeat_interleave(NUM_FRAMES, 0) for name, value in told.added_cond_kwargs(1).items()}
    expected = base(
        frames,
        timestep,
        told.text.repeat_interleave(NUM_FRAMES, 0),
        added_cond_kwargs=per_frame,
    ).sample
    actual = MotionUNet(base, MotionConfig.for_version(version))(sample, timestep, told)
    assert torch.equal(actual.transpose(1, 2).flatten(0, 1), expected)


@pytest.mark.parametrize(
    ("version", "modules", "parameters"),
    [("v1", 20, 417_137_600), ("v2", 21, 453_209_280), ("v3", 20, 417_137_600), ("sdxl", 15, 236_779_200)],
)
def test_published_sizes(version, modules, parameters):
    channels = (320, 640, 1280) if version == "sdxl" else (320, 640, 1280, 1280)
    with torch.device("meta"):
        motion = MotionModules(
            MotionConfig.for_version(version),
            down=[[c, c] for c in channels],
            mid=1280,
            up=[[c, c, c] for c in reversed(channels)],
        )
    assert sum(isinstance(m, MotionModule) for m in motion.modules()) == modules
    assert sum(p.numel() for p in motion.parameters()) == parameters
    assert len(motion.state_dict()) == 26 * modules  # 28 keys a module in the files, less two position tables


@settings(max_examples=20)
@given(st.permutations(range(NUM_FRAMES)), st.sampled_from(["frame", "clip"]))
@torch.no_grad()
def test_equivariant_to_frame_order_only_without_positions(order, scope):
    for use_positions in (False, True):
        torch.manual_seed(0)
        module = MotionModule(32, MotionConfig(use_positions=use_positions, norm_scope=scope))
        randomise(module)
        clip = torch.randn(NUM_FRAMES, 32, 3, 2, generator=torch.Generator().manual_seed(1))
        difference = (module(clip[order], NUM_FRAMES) - module(clip, NUM_FRAMES)[order]).abs().max()
        if use_positions and order != sorted(order):
            assert difference > 1e-3
        else:
            assert difference < 1e-5


@pytest.mark.parametrize("version", ["v3", "sdxl"])
@torch.no_grad()
def test_a_text_a_frame_is_that_frames_alone(version):
    base = make_unet(version).double()  # float32 rounds by the number of rows
    sample, timestep, told = make_inputs(version)
    sample = sample.double()
    one = MotionUNet(base, MotionConfig.for_version(version)).double()
    texts = torch.randn(2, NUM_FRAMES, 7, 24, generator=torch.Generator().manual_seed(3))
    found = one(sample, timestep, replace(told, text=texts))
    for frame in range(NUM_FRAMES):  # fresh motion modules mix none
        expected = one(sample[:, :, [frame]], timestep, replace(told, text=texts[:, frame]))
        torch.testing.assert_close(found[:, :, [frame]], expected, rtol=1e-4, atol=1e-5)
    same = one(sample, timestep, replace(told, text=told.text[:, None].expand(-1, NUM_FRAMES, -1, -1)))
    torch.testing.assert_close(same, one(sample, timestep, told), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_timestep_a_clip_is_the_clips_own():
    unet = MotionUNet(make_unet("v3"), MotionConfig())
    sample, _, told = make_inputs("v3", (16, 16))
    together = unet(sample, torch.tensor([3, 800]), told)
    alone = torch.cat([unet(sample[i : i + 1], t, told.rows([i])) for i, t in enumerate((3, 800))])
    assert (together - alone).abs().max() < 1e-5
    assert (together - unet(sample, 3, told)).abs().max() > 1e-2


def test_training_steps_leave_the_base_alone():
    base = make_unet("v3")
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    unet = MotionUNet(base, MotionConfig()).train()
    assert not base.training
    sample, timestep, told = make_inputs("v3")
    optimizer = torch.optim.AdamW([p for p in unet.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = unet(sample, timestep, told).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in base.parameters())
    assert all(p.grad is not None for p in unet.motion.parameters())
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_clip_norms_of_v1_mix_frames_even_without_motion():
    sample, timestep, told = make_inputs("v1")
    unet = MotionUNet(make_unet("v1"), MotionConfig.for_version("v1"))
    changed = sample.clone()
    changed[:, :, -1] += 1
    with torch.no_grad():
        first = [unet(x, timestep, told)[:, :, 0] for x in (sample, changed)]
    assert not torch.allclose(*first, atol=1e-4)


def test_attention_in_chunks_is_the_same(monkeypatch):
    torch.manual_seed(0)
    attention = TemporalAttention(32, MotionConfig())
    x = torch.randn(50, 6, 32)
    whole = attention(x)
    monkeypatch.setattr("animatediff.models.motion_module._MAX_ATTENTION_ROWS", 16)
    assert torch.allclose(attention(x), whole, atol=1e-6)


def test_longer_position_table_begins_with_the_shorter():
    assert torch.equal(sinusoidal_positions(64, 32)[:24], sinusoidal_positions(24, 32))


@pytest.mark.parametrize(
    ("shape", "text_shape", "says"),
    [
        ((1, 4, 33, 8, 8), (1, 7, 24), r"33 frames.* has 32"),
        ((1, 3, 5, 8, 8), (1, 7, 24), r"c = 4, got \(1, 3, 5, 8, 8\)"),
        ((5, 4, 8, 8), (5, 7, 24), r"\(b c f h w\).*got \(5, 4, 8, 8\)"),
        ((2, 4, 5, 8, 8), (10, 7, 24), r"b = 2 and f = 5, got \(10, 7, 24\)"),
    ],
)
def test_wrong_shapes_are_named(shape, text_shape, says):
    unet = MotionUNet(make_unet("v3"), MotionConfig())
    with pytest.raises(ValueError, match=says):
        unet(torch.zeros(shape), 1, Conditioning(torch.zeros(text_shape)))


def test_motion_module_names_wrong_shapes():
    module = MotionModule(32, MotionConfig())
    with pytest.raises(ValueError, match=r"c = 32 .*got \(5, 64, 2, 2\)"):
        module(torch.zeros(5, 64, 2, 2), 5)
    with pytest.raises(ValueError, match="48 channels"):
        MotionModule(48, MotionConfig())


def test_foreign_unet_is_refused():
    unet = UNet2DConditionModel(**SD, class_embed_type="timestep")
    with pytest.raises(ValueError, match="class_embed_type"):
        MotionUNet(unet, MotionConfig())


TEXT = MotionConfig(text_width=24)


def captioned():
    """Motion modules whose every weight has been trained, as it were."""
    unet = MotionUNet(make_unet("v3"), TEXT)
    randomise(unet.motion)
    for name, parameter in unet.motion.named_parameters():
        if ".text_attention.to_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return unet


@torch.no_grad()
def test_attention_to_the_caption_changes_nothing_until_it_is_trained():
    base = make_unet("v3")
    sample, timestep, told = make_inputs("v3")
    without = MotionUNet(base, MotionConfig())
    randomise(without.motion)
    fresh = MotionUNet(base, TEXT)
    missing, unexpected = fresh.motion.load_state_dict(without.motion.state_dict(), strict=False)
    assert missing
    assert all(".text_attention." in name or ".text_norm." in name for name in missing)
    assert unexpected == []
    assert torch.equal(fresh(sample, timestep, told), without(sample, timestep, told))


@torch.no_grad()
def test_each_clip_attends_to_its_own_caption_and_each_frame_at_its_own_position():
    module = next(m for m in captioned().motion.modules() if isinstance(m, MotionModule))
    frame = torch.randn(1, 32, 3, 2, generator=torch.Generator().manual_seed(1))
    still = frame.expand(2 * NUM_FRAMES, -1, -1, -1)
    _, _, told = make_inputs("v3")
    clips = module(still, NUM_FRAMES, told.text).unflatten(0, (2, NUM_FRAMES))
    swapped = module(still, NUM_FRAMES, told.text.flip(0)).unflatten(0, (2, NUM_FRAMES))
    assert (clips - swapped.flip(0)).abs().max() < 1e-5
    assert (clips[0] - clips[1]).abs().max() > 1e-2
    difference = (clips[0] - clips[1])[1:] - (clips[0] - clips[1])[:-1]
    assert difference.abs().max() > 1e-3  # what the captions differ by is not the same in every frame


@torch.no_grad()
def test_captions_move_clips_and_clips_alone_give_what_they_give_together():
    unet = captioned()
    sample, timestep, told = make_inputs("v3")
    together = unet(sample, timestep, told)
    alone = torch.cat([unet(sample[i : i + 1], timestep, told.rows([i])) for i in range(2)])
    assert (together - alone).abs().max() < 1e-4


@torch.no_grad()
def test_each_frame_attends_to_its_own_caption():
    module = next(m for m in captioned().motion.modules() if isinstance(m, MotionModule))
    x = torch.randn(2 * NUM_FRAMES, 32, 3, 2, generator=torch.Generator().manual_seed(1))
    _, _, told = make_inputs("v3")
    same = told.text[:, None].repeat(1, NUM_FRAMES, 1, 1)
    once = module(x, NUM_FRAMES, told.text)
    assert (module(x, NUM_FRAMES, same) - once).abs().max() < 1e-5
    changed = same.clone()
    changed[1, 2] = told.text[0]
    differs = (module(x, NUM_FRAMES, changed) - once).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert differs.nonzero().flatten().tolist() == [NUM_FRAMES + 2]


@pytest.mark.parametrize(
    "text",
    [
        None,
        torch.zeros(1, 7, 24),
        torch.zeros(2, 7, 16),
        torch.zeros(2, 24),
        torch.zeros(2, NUM_FRAMES + 1, 7, 24),
        torch.zeros(1, NUM_FRAMES, 7, 24),
    ],
)
def test_a_caption_that_does_not_fit_the_motion_module_is_refused(text):
    module = MotionModule(32, TEXT)
    with pytest.raises(ValueError, match=r"attends to text embeddings \(b n d\) or \(b f n d\) with b = 2, .* d = 24"):
        module(torch.zeros(2 * NUM_FRAMES, 32, 3, 2), NUM_FRAMES, text)


def test_a_base_with_other_text_embeddings_is_refused():
    with pytest.raises(ValueError, match="attend to text embeddings of 16 channels, the base's have 24"):
        MotionUNet(make_unet("v3"), MotionConfig(text_width=16))


def test_every_parameter_of_the_attention_to_the_caption_learns():
    unet = captioned()
    sample, timestep, told = make_inputs("v3")
    unet(sample, timestep, told).square().mean().backward()
    learning = {name: p.grad is not None and bool(p.grad.any()) for name, p in unet.motion.named_parameters()}
    assert [name for name, learns in learning.items() if not learns] == []


CHECKPOINTING = ("none", "motion", "all")


def learn(unet, checkpointing, version="v3", learner=None):
    """The loss, the learner's gradients, and the bytes that autograd keeps for the backward pass."""
    unet.activation_checkpointing = checkpointing
    learner = learner or unet.motion
    learner.zero_grad()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        loss = unet(*make_inputs(version)).square().mean()
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in learner.named_parameters()}, sum(sizes)


def assert_same_learning(first, second):
    assert torch.equal(first[0], second[0])
    assert first[1].keys() == second[1].keys()
    assert all(torch.equal(gradient, second[1][name]) for name, gradient in first[1].items())
    # The middle block has one pixel: how it attends to itself changes nothing, but for rounding on some processors.
    learns_nothing = [name for name, gradient in first[1].items() if not gradient.any()]
    assert all(name.startswith("mid_block") and ("to_q" in name or "to_k" in name) for name in learns_nothing)


@pytest.mark.parametrize("version", ["v1", "v2", "sdxl"])
def test_activation_checkpointing_keeps_less_and_learns_the_same(version):
    unet = MotionUNet(make_unet(version), MotionConfig.for_version(version)).train()
    randomise(unet.motion)
    none, motion, everything = (learn(unet, checkpointing, version) for checkpointing in CHECKPOINTING)
    assert_same_learning(none, motion)
    assert_same_learning(none, everything)
    assert none[2] > motion[2] > everything[2]


@pytest.mark.parametrize("part", ["motion", "base"])
def test_adapters_learn_the_same_under_activation_checkpointing(part):
    unet = MotionUNet(make_unet("v3"), MotionConfig()).train()
    randomise(unet.motion.requires_grad_(False))
    make = {"motion": LowRankAdapters.for_motion, "base": LowRankAdapters.for_base}[part]
    adapters = make(getattr(unet, part), 2)
    for name, parameter in adapters.named_parameters():
        if "up" in name:
            torch.nn.init.normal_(parameter)
    none, motion, everything = (learn(unet, checkpointing, learner=adapters) for checkpointing in CHECKPOINTING)
    assert_same_learning(none, motion)
    assert_same_learning(none, everything)


def test_nothing_before_the_first_motion_module_is_computed_again():
    unet = MotionUNet(make_unet("v3"), MotionConfig()).train()
    calls = []
    for i, resnet in enumerate(unet.base.down_blocks[0].resnets):
        resnet.register_forward_hook(lambda *_, i=i: calls.append(i))
    learn(unet, "all")
    assert calls == [0, 1, 1]


def feed_forwards(dtype=torch.float32, is_learning=True):
    """diffusers' and a lean one, with the same weights."""
    torch.manual_seed(0)
    plain = FeedForward(32, activation_fn="geglu").to(dtype).requires_grad_(is_learning)
    lean = copy.deepcopy(plain)
    use_memory_efficient_feed_forward(lean)
    assert isinstance(lean, MemoryEfficientFeedForward)
    return plain, lean


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tokens", [1, 1024, 1025, 3000])  # one slice, or a few
@torch.no_grad()
def test_a_lean_feed_forward_is_diffusers_bit_for_bit(tokens, dtype):
    plain, lean = feed_forwards(dtype)
    x = torch.randn(tokens, 32, dtype=dtype)
    assert torch.equal(lean(x), plain(x))
    assert torch.equal(lean(x[None, None])[0, 0], plain(x))


def learn_feed_forward(model, x):
    """The gradients of the input and the weights, and the bytes kept for them."""
    sizes = []
    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        y = model(x)
    y.float().square().sum().backward()
    return [x.grad, *(p.grad for p in model.parameters() if p.requires_grad)], sum(sizes)


@pytest.mark.parametrize("is_learning", [True, False])
def test_a_lean_feed_forward_learns_as_diffusers_and_keeps_less(is_learning):
    plain, lean = feed_forwards(torch.float64, is_learning)
    x = torch.randn(3000, 32, dtype=torch.float64)
    (expected, plain_bytes), (gradients, lean_bytes) = (learn_feed_forward(m, x) for m in (plain, lean))
    assert len(gradients) == (5 if is_learning else 1)
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, wanted, rtol=1e-9)
    assert lean_bytes < 0.7 * plain_bytes


def test_under_autocast_a_lean_feed_forward_is_diffusers_and_its_gradients_are_as_near():
    plain, lean = feed_forwards()
    x = torch.randn(3000, 32)
    exact, _ = learn_feed_forward(plain, x)
    plain.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(lean(x), plain(x))
        (rounded, _), (gradients, _) = (learn_feed_forward(m, x) for m in (plain, lean))
    for gradient, peer, wanted in zip(gradients, rounded, exact, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - wanted).norm() < 1.5 * (peer - wanted).norm()


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
def test_a_layer_that_a_library_has_replaced_is_still_asked():
    plain, lean = feed_forwards()
    for model in (plain, lean):
        model.net[2].__class__ = Doubled
    x = torch.randn(5, 32)
    assert torch.equal(lean(x), plain(x))
