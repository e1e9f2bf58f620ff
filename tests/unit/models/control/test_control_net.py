"""ControlNets beside the motion UNet: agreement with diffusers, frame by frame and over whole clips."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.diffusion.sampling import sample
from animatediff.models.config import MotionConfig
from animatediff.models.control.control_net import ControlNet
from animatediff.models.motion_unet import MotionModules, MotionUNet
from animatediff.weights import motion_modules
from animatediff.weights.controls import control_net_file
from tests.support_base import build_base
from tests.support_weights import control_net_to_ldm, tiny_sdxl

GOLDEN = Path(__file__).parents[5] / "shared" / "golden" / "controlnet.safetensors"
NUM_FRAMES = 4


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"needs {GOLDEN}")
    with safe_open(GOLDEN, "pt") as file:
        config = json.loads(file.metadata()["unet2d_config"])
    return load_file(GOLDEN), config


def part(tensors, prefix):
    return {name.removeprefix(prefix): t.float() for name, t in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def golden_unet(golden):
    tensors, config = golden
    weights = part(tensors, "unet.")
    unet = MotionUNet(UNet2DConditionModel(**config), MotionConfig.for_version("v3")).eval()
    unet.motion.load_state_dict({k: v for k, v in weights.items() if "motion_modules" in k and "pos_encoder" not in k})
    unet.base.load_state_dict({k: v for k, v in weights.items() if "motion_modules" not in k})
    return unet


@pytest.fixture(scope="module", params=["original", "diffusers"])
def golden_nets(golden, request, tmp_path_factory):
    """Read from files in a layout, in half precision, as they are published."""
    tensors, config = golden
    nets, folder = [], tmp_path_factory.mktemp("nets")
    for i in range(2):
        weights = {name: t.half() for name, t in part(tensors, f"controlnet_{i}.").items()}
        if request.param == "original":
            path = folder / f"{i}.pth"
            torch.save({f"control_model.{control_net_to_ldm(name)}": t for name, t in weights.items()}, path)
        else:
            path = folder / f"{i}.safetensors"
            save_file(weights, path)
        nets.append(control_net_file.open_file(str(path), config).build())
    return nets


def golden_control(golden, nets, i, *, rows=2, scale=1.0, **settings):
    with torch.no_grad():
        condition = nets[i].embed(golden[0][f"condition_{i}"], NUM_FRAMES)
    return Control(nets[i], condition.expand(rows, -1, -1, -1, -1), torch.full((rows, NUM_FRAMES), scale), **settings)


@torch.no_grad()
def test_two_nets_give_the_references_residuals_and_prediction(golden, golden_nets, golden_unet):
    tensors = golden[0]
    latents, timestep = tensors["latents"].expand(2, -1, -1, -1, -1), tensors["timestep"]
    controls = tuple(golden_control(golden, golden_nets, i, scale=scale) for i, scale in enumerate((1.0, 0.5)))
    told = Conditioning(tensors["encoder_hidden_states"], controls=controls)
    down, mid = told.residuals(latents, timestep)
    for i, residual in enumerate(down):
        torch.testing.assert_close(residual, tensors[f"down_residual_{i:02}"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mid, tensors["mid_residual"], atol=1e-5, rtol=1e-5)
    assert (golden_unet(latents, timestep, told) - tensors["noise_pred"]).abs().max() < 1e-5
    without = golden_unet(latents, timestep, Conditioning(told.text))
    assert (without - tensors["noise_pred_without_control"]).abs().max() < 1e-5


@torch.no_grad()
def test_guess_mode_weighs_the_residuals_as_the_reference(golden, golden_nets):
    tensors = golden[0]
    control = golden_control(golden, golden_nets, 0, rows=1, scale=0.8, guess_mode=True)
    told = Conditioning(tensors["encoder_hidden_states"][1:], controls=(control,))
    down, mid = told.residuals(tensors["latents"], tensors["timestep"])
    for i in (0, 5):
        torch.testing.assert_close(down[i], tensors[f"guess_down_residual_{i:02}"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mid, tensors["guess_mid_residual"], atol=1e-5, rtol=1e-5)


def test_nets_are_on_in_the_references_steps(golden, golden_nets):
    controls = [
        golden_control(golden, golden_nets, 0, start=0.0, end=0.5),
        golden_control(golden, golden_nets, 1, start=0.2, end=1.0),
    ]
    found = [[float(control.is_on(step, 10)) for control in controls] for step in range(10)]
    assert found == golden[0]["keep_10_steps"].tolist()


# --- whole clips, on a small base of random weights ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def parts(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    return {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}


def make_net(unet, seed, *, layers=(16, 16, 32, 32)):
    """A ControlNet whose every weight is random, the last convolutions' too, which fresh ones have at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(
            unet, conditioning_embedding_out_channels=list(layers), load_weights_from_unet=False
        )
        for name, parameter in net.named_parameters():
            if name.startswith(("controlnet_", "controlnet_cond_embedding.conv_out")):
                nn.init.normal_(parameter, std=0.1)
    return net.eval()


@pytest.fixture(scope="module")
def adapter(parts, tmp_path_factory):
    """Motion modules that move, and the same in diffusers, with the norm of each frame's own statistics."""
    motion = MotionModules.for_base(parts["unet"], MotionConfig(norm_num_groups=8))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    path = tmp_path_factory.mktemp("motion") / "adapter"
    motion_modules.write(str(path), motion, to="diffusers")
    return motion, MotionAdapter.from_pretrained(path)


class FrameNorm(nn.GroupNorm):
    def forward(self, x):
        frames = super().forward(x.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


def text_of(parts, prompt):
    tokenizer = parts["tokenizer"]
    tokens = tokenizer(prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    with torch.no_grad():
        return parts["text_encoder"](tokens.input_ids)[0]


def pictures(seed, num_frames=NUM_FRAMES, size=(32, 48)):
    return torch.rand(1, 3, num_frames, *size, generator=torch.Generator().manual_seed(seed))


def draw(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(unet, parts, controls, *, guidance_scale=5.0, num_inference_steps=2):
    noise = draw(1, 4, NUM_FRAMES, 4, 6)
    negative = Conditioning(text_of(parts, "blue"))
    told = Conditioning(text_of(parts, "a red circle"), negative=negative, controls=controls)
    sampler = SAMPLERS["ddim"](NoiseSchedule())
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    return sample(unet, sampler, told, noise, **settings), noise


def control_of(net, pixels, *, scale=1.0, **settings):
    with torch.no_grad():
        condition = net.embed(pixels, NUM_FRAMES)
    return Control(net, condition, torch.full((len(pixels), NUM_FRAMES), scale), **settings)


@pytest.fixture(scope="module")
def unet(parts, adapter):
    base = UNet2DConditionModel.from_config(parts["unet"].config)
    base.load_state_dict(parts["unet"].state_dict())
    return MotionUNet(base, adapter[0]).eval()


@pytest.fixture(scope="module")
def net(parts):
    return ControlNet(make_net(parts["unet"], 1))


@pytest.fixture(scope="module")
def diffusers_pipeline(parts, adapter):
    """With two nets, and motion modules that norm each frame by itself."""
    pipeline = AnimateDiffControlNetPipeline(
        **parts | {"scheduler": SAMPLERS["ddim"](NoiseSchedule()).scheduler},
        motion_adapter=adapter[1],
        controlnet=[make_net(parts["unet"], seed) for seed in (1, 2)],
    )
    pipeline.set_progress_bar_config(disable=True)
    for name, module in pipeline.unet.named_modules():
        if "motion_modules" in name and isinstance(module, nn.GroupNorm):
            module.__class__ = FrameNorm
    return pipeline


@torch.no_grad()
@pytest.mark.parametrize(("guess_mode", "guidance_scale"), [(False, 5.0), (True, 1.0)])
def test_a_clip_is_that_of_diffusers_pipeline(parts, unet, diffusers_pipeline, guess_mode, guidance_scale):
    """Two nets with pictures, scale, start and end of their own; in pixels, after the VAE.

    Guess mode without guidance, with which diffusers' pipeline fails.
    """
    condition, scales = [pictures(seed) for seed in (1, 2)], [1.0, 0.5]
    starts, ends = [0.0, 0.5], [0.5, 1.0]
    controls = tuple(
        control_of(
            ControlNet(make_net(parts["unet"], seed)), pixels, scale=scale, start=start, end=end, guess_mode=guess_mode
        )
        for seed, pixels, scale, start, end in zip((1, 2), condition, scales, starts, ends, strict=True)
    )
    latents, noise = clip(unet, parts, controls, guidance_scale=guidance_scale, num_inference_steps=4)
    expected = diffusers_pipeline(
        "a red circle",
        negative_prompt="blue",
        num_frames=NUM_FRAMES,
        height=32,
        width=48,
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        latents=noise,
        conditioning_frames=[list(pixels[0].transpose(0, 1)) for pixels in condition],
        controlnet_conditioning_scale=scales,
        control_guidance_start=starts,
        control_guidance_end=ends,
        guess_mode=guess_mode,
        output_type="pt",
    ).frames
    assert largest_difference(decoded(parts, latents), expected[0]) < 0.01  # 0.001 when this was written
    plain, _ = clip(unet, parts, (), guidance_scale=guidance_scale, num_inference_steps=4)
    assert largest_difference(decoded(parts, plain), expected[0]) > 5


def decoded(parts, latents):
    return (parts["vae"].decode(latents[0].transpose(0, 1) / parts["vae"].config.scaling_factor).sample + 1) / 2


def largest_difference(frames, others):
    """In levels, of which a pixel has 255."""
    return (frames.clamp(0, 1) - others.clamp(0, 1)).abs().max() * 255


def test_scale_zero_no_steps_and_convolutions_at_zero_are_no_control(parts, unet, net):
    plain, _ = clip(unet, parts, ())
    fresh = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=[16, 16, 32, 32])
    for control in (
        control_of(net, pictures(1), scale=0.0),
        control_of(net, pictures(1), start=0.5, end=0.5),
        control_of(ControlNet(fresh), pictures(1)),
    ):
        assert torch.equal(clip(unet, parts, (control,))[0], plain)


def test_two_nets_are_the_sum_of_one_each(parts, unet, net):
    latents = draw(1, 4, NUM_FRAMES, 4, 6)
    one, two = control_of(net, pictures(1)), control_of(ControlNet(make_net(parts["unet"], 2)), pictures(2), scale=0.5)
    told = Conditioning(text_of(parts, "a circle"))

    def residuals(*controls):
        down, mid = Conditioning(told.text, controls=controls).residuals(latents, 500)
        return [*down, mid]

    for both, first, second in zip(residuals(one, two), residuals(one), residuals(two), strict=True):
        assert torch.equal(both, first + second)


def test_guess_mode_leaves_the_negative_half_without_control(parts, unet, net):
    control = control_of(net, pictures(1), guess_mode=True)
    latents = draw(1, 4, NUM_FRAMES, 4, 6)
    texts = {"negative": text_of(parts, "blue"), "positive": text_of(parts, "a red circle")}
    told = Conditioning(texts["positive"], negative=Conditioning(texts["negative"]), controls=(control,))
    with torch.no_grad():
        halves = [unet(latents, 999, branch) for branch in told.guidance_branches(is_guided=True)]
        plain = unet(latents, 999, Conditioning(texts["negative"]))
        guessed = unet(latents, 999, Conditioning(texts["positive"], controls=(control,)))
    assert torch.equal(halves[0], plain)
    assert torch.equal(halves[1], guessed)
    for guidance_scale in (1.0, 5.0):
        full = control_of(net, pictures(1))
        clips = [
            clip(unet, parts, controls, guidance_scale=guidance_scale, num_inference_steps=1)[0]
            for controls in ((control,), (full,), ())
        ]
        assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(clips, 2))


@torch.no_grad()
@pytest.mark.parametrize("is_pooled", [False, True])
def test_residuals_are_those_of_diffusers_network(parts, is_pooled):
    """A clip and a text at a time, a text a frame, and two clips of unequal timesteps."""
    wanted = make_net(parts["unet"], 1)
    wanted.register_to_config(global_pool_conditions=is_pooled)
    net = ControlNet(make_net(parts["unet"], 1), global_pool_conditions=is_pooled)
    assert net.forces_guess_mode == is_pooled
    latents = draw(2, 4, NUM_FRAMES, 4, 6)
    text = draw(2, NUM_FRAMES, 5, 32)
    pixels = torch.cat([pictures(1), pictures(2)])
    condition = net.embed(pixels, NUM_FRAMES)

    def rows(clips):
        return clips.transpose(1, 2).flatten(0, 1)

    for told, texts, timestep in (
        (text[:, 0], text[:, 0].repeat_interleave(NUM_FRAMES, dim=0), torch.tensor(7)),
        (text, text.flatten(0, 1), torch.tensor([3, 900])),
    ):
        times = timestep.reshape(-1).expand(2).repeat_interleave(NUM_FRAMES)
        down, mid = wanted(rows(latents), times, texts, rows(pixels), return_dict=False)
        found = net(latents, timestep, Conditioning(told), condition)
        assert found.mid.shape[2:] == ((1, 1) if is_pooled else mid.shape[2:])
        for ours, theirs in zip([*found.down, found.mid], [*down, mid], strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_pooled_residuals_go_into_the_unet(parts, unet):
    net = ControlNet(make_net(parts["unet"], 1), global_pool_conditions=True)
    latents, _ = clip(unet, parts, (control_of(net, pictures(1), guess_mode=net.forces_guess_mode),))
    assert latents.isfinite().all()
    assert not torch.equal(latents, clip(unet, parts, ())[0])


def test_one_picture_stands_for_all_frames(net):
    one = pictures(1, num_frames=1)
    with torch.no_grad():
        assert torch.equal(net.embed(one, 3), net.embed(one.expand(-1, -1, 3, -1, -1), 3))


def test_a_frames_picture_is_no_other_frames(net):
    with torch.no_grad():
        before, changed = pictures(1), pictures(1)
        changed[:, :, 2] = 1 - changed[:, :, 2]
        difference = (net.embed(before, NUM_FRAMES) - net.embed(changed, NUM_FRAMES)).abs().amax(dim=(0, 1, 3, 4))
    assert (difference > 0).tolist() == [False, False, True, False]


def test_pictures_that_do_not_fit_are_refused(net):
    for pixels in (pictures(1, num_frames=3), pictures(1)[:, :1], pictures(1)[0]):
        with pytest.raises(ValueError, match=r"takes pictures \(b c f H W\) with c = 3 and f = 1 or 4"):
            net.embed(pixels, NUM_FRAMES)
    condition = net.embed(pictures(1, size=(64, 48)), NUM_FRAMES)
    with pytest.raises(ValueError, match=r"embedded as f, h, w = \(4, 8, 6\), the latents are \(4, 4, 6\)"):
        net(torch.zeros(1, 4, NUM_FRAMES, 4, 6), 0, Conditioning(torch.zeros(1, 5, 32)), condition)


@torch.no_grad()
def test_pictures_in_bgr_are_turned(parts):
    turned = make_net(parts["unet"], 1)
    turned.register_to_config(controlnet_conditioning_channel_order="bgr")
    rgb, bgr = ControlNet(make_net(parts["unet"], 1)), ControlNet(turned)
    assert torch.equal(bgr.embed(pictures(1), NUM_FRAMES), rgb.embed(pictures(1).flip(1), NUM_FRAMES))
    latents, told = draw(1, 4, NUM_FRAMES, 4, 6), Conditioning(draw(1, 5, 32))
    condition = rgb.embed(pictures(1), NUM_FRAMES)
    assert torch.equal(bgr(latents, 5, told, condition).mid, rgb(latents, 5, told, condition).mid)


@torch.no_grad()
def test_a_net_of_sdxl_reads_its_pooled_text_and_sizes():
    base = tiny_sdxl()["unet"]
    wanted, net = make_net(base, 1), ControlNet(make_net(base, 1))
    latents = draw(2, 4, 3, 4, 4)
    told = Conditioning(draw(2, 5, 48), draw(2, 32), torch.randint(64, (2, 6)).float())
    pixels = torch.rand(2, 3, 3, 32, 32)
    found = net(latents, 7, told, net.embed(pixels, 3))
    added = {name: tensor.repeat_interleave(3, dim=0) for name, tensor in told.added_cond_kwargs(1).items()}
    down, mid = wanted(
        latents.transpose(1, 2).flatten(0, 1),
        7,
        told.text.repeat_interleave(3, dim=0),
        pixels.transpose(1, 2).flatten(0, 1),
        added_cond_kwargs=added,
        return_dict=False,
    )
    for ours, theirs in zip([*found.down, found.mid], [*down, mid], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
