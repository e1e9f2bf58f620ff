"""SDXL bases are rendered as diffusers' own pipeline renders them, with all that an entry may name."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    ControlNetModel,
    MotionAdapter,
    StableDiffusionXLPipeline,
    UNetMotionModel,
)
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.context import Context
from animatediff.diffusion.passes.free_init import FreeInit
from animatediff.diffusion.passes.second_pass import SecondPass
from animatediff.diffusion.samplers import SAMPLERS
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionUNet
from animatediff.models.prompt_encoders import PromptEncoders
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.entries import Entry
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.prompt_conditioning import PromptConditioner
from animatediff.weights import checkpoints, motion_modules
from animatediff.weights.base import load_text_encoders, load_unet
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.motion_schedule import PUBLISHED
from tests.support_ip_adapter import build_image_encoder, write_ip_adapter
from tests.support_sdxl import MAX_TOKENS, TEXT_WIDTHS, build_sdxl, write_motion, write_personal_files

BARE = Entry(name="bare")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdxl")
    write_motion(folder / "motion.safetensors", build_sdxl(folder / "base"))
    build_sdxl(folder / "other", seed=1)
    return folder


@pytest.fixture(scope="module")
def animator(files):
    return Animator(str(files / "base"), str(files / "motion.safetensors"), schedule=None, device="cpu")


@pytest.fixture(scope="module")
def pipeline(files):
    """Diffusers' own, with the same weights; SDXL-beta's norms are over all frames there, too."""
    motion_modules.convert(str(files / "motion.safetensors"), str(files / "adapter"), to="diffusers")
    parts = StableDiffusionXLPipeline.from_pretrained(files / "base").components
    unet = UNetMotionModel.from_unet2d(parts["unet"], MotionAdapter.from_pretrained(files / "adapter"))
    # Forgotten by `from_unet2d` of diffusers 0.42.
    unet.add_embedding.load_state_dict(parts["unet"].add_embedding.state_dict())
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    found = AnimateDiffSDXLPipeline(
        **{name: parts[name] for name in names},
        unet=unet.eval(),
        motion_adapter=None,
        scheduler=SAMPLERS["ddim"](PUBLISHED["sdxl"]).scheduler,
    )
    found.set_progress_bar_config(disable=True)
    return found


def item(**changes):
    settings = {"prompt": "a red circle", "negative_prompt": "grey", "seed": 3, "num_inference_steps": 4}
    size = {"width": 32, "height": 16, "num_frames": 4}
    return Item(digest="", entry="x", model="", **(settings | size | changes))


def noise_of(wanted):
    shape = (1, 4, wanted.num_frames, wanted.height // 8, wanted.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(wanted.seed))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"negative_prompt": "grey"}),
        ({"negative_prompt": ""}, {"negative_prompt": None}),  # zeros
        ({"guidance_scale": 1.0, "clip_skip": 1}, {"clip_skip": 1}),
        ({"guidance_rescale": 0.7}, {"negative_prompt": "grey", "guidance_rescale": 0.7}),
    ],
)
def test_a_clip_is_diffusers_own(animator, pipeline, changes, told):
    wanted = item(**changes)
    frames = pipeline(
        prompt=wanted.prompt,
        height=wanted.height,
        width=wanted.width,
        num_frames=wanted.num_frames,
        num_inference_steps=wanted.num_inference_steps,
        guidance_scale=wanted.guidance_scale,
        latents=noise_of(wanted),
        output_type="np",
        **told,
    ).frames[0]
    animator.load(BARE)
    own = animator.render(wanted)
    assert np.abs(own - frames * 255).max() <= 1.01  # levels of 255; half a level is rounding
    assert own.std() > 5


@torch.no_grad()
def test_a_step_is_diffusers_own(animator, pipeline):
    sample, text, pooled = torch.randn(2, 4, 5, 2, 4), torch.randn(2, 7, sum(TEXT_WIDTHS)), torch.randn(2, 32)
    time_ids = torch.tensor([[16.0, 32, 0, 0, 16, 32], [64, 48, 0, 8, 16, 32]])
    expected = pipeline.unet(
        sample,
        700,
        encoder_hidden_states=text.repeat_interleave(5, 0),
        added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
    ).sample
    animator.load(BARE)
    found = animator._unet(sample, 700, Conditioning(text, pooled, time_ids))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("timestep", [500, torch.tensor([500, 20])])
@torch.no_grad()
def test_a_frame_may_have_a_pooled_text_of_its_own(files, timestep):
    """Without motion a clip is its frames: each as in a clip of its own pooled text."""
    unet = MotionUNet(load_unet(str(files / "base")), MotionConfig(norm_num_groups=8))
    sample, text, pooled = torch.randn(2, 4, 3, 2, 4), torch.randn(2, 7, sum(TEXT_WIDTHS)), torch.randn(2, 3, 32)
    told = Conditioning(text, pooled, torch.rand(2, 6) * 64)
    found = unet(sample, timestep, told)
    for frame in range(3):
        alone = unet(sample, timestep, Conditioning(text, pooled[:, frame], told.time_ids))
        torch.testing.assert_close(found[:, :, frame], alone[:, :, frame])
    assert not torch.allclose(found, alone)
    window = told.frames([2, 0])
    assert torch.equal(window.pooled_text, pooled[:, [2, 0]])
    assert torch.equal(unet(sample[:, :, [2, 0]], timestep, window), found[:, :, [2, 0]])


@pytest.fixture
def conditioner(files):
    base = str(files / "base")
    zeroes = BaseFacts(base).zeroes_empty_negative_prompt
    return PromptConditioner(PromptEncoders(load_text_encoders(base)), torch.float32, zeroes_empty_negative=zeroes)


@pytest.mark.parametrize("syntax", ["plain", "a1111"])
def test_prompts_by_frame_carry_their_pooled_text(conditioner, syntax):
    texts = {1: "a red circle", 3: "a blue circle"}
    found = conditioner.conditioning(item(prompt=texts, prompt_syntax=syntax))
    assert found.pooled_text.shape == found.negative.pooled_text.shape == (1, 4, TEXT_WIDTHS[1])
    for frame, text in texts.items():
        alone = conditioner.conditioning(item(prompt=text, prompt_syntax=syntax))
        assert torch.equal(found.text[:, frame], alone.text)
        assert torch.equal(found.pooled_text[:, frame], alone.pooled_text)
        assert torch.equal(found.negative.pooled_text[:, frame], alone.negative.pooled_text)
    assert not torch.equal(found.pooled_text[:, 2], found.pooled_text[:, 1])


def test_weights_multiply_alone_and_the_first_chunk_is_pooled(conditioner):
    long = "a large red star moving left on a dark blue background, " * 3
    found = conditioner.conditioning(item(prompt=f"a (red:1.5) circle BREAK {long}", prompt_syntax="a1111"))
    first = conditioner.conditioning(item(prompt="a red circle"))
    assert torch.equal(found.pooled_text, first.pooled_text)
    chunk = found.text[:, :MAX_TOKENS]
    assert torch.equal(chunk[:, 2], first.text[:, 2] * 1.5)
    assert torch.equal(chunk[:, 3:], first.text[:, 3:])
    assert found.negative.text.shape == found.text.shape


def test_an_empty_negative_prompt_is_what_the_base_says(files, conditioner, tmp_path):
    for syntax, prompt in (("plain", "a red circle"), ("a1111", "a BREAK b"), ("plain", {0: "a", 2: "b"})):
        negative = conditioner.conditioning(item(prompt=prompt, negative_prompt="", prompt_syntax=syntax)).negative
        assert not negative.text.any()
        assert not negative.pooled_text.any()
    assert conditioner.conditioning(item(negative_prompt=" ")).negative.text.any()
    base = shutil.copytree(files / "base", tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert not BaseFacts(str(base)).zeroes_empty_negative_prompt
    assert checkpoints.content_hash(str(base)) != checkpoints.content_hash(str(files / "base"))
    own = Animator(str(base), str(files / "motion.safetensors"), schedule=None, device="cpu")
    empty, told = item(negative_prompt=""), own._conditioner.conditioning(item(negative_prompt=""))
    assert torch.equal(told.negative.text, own._conditioner.conditioning(item(prompt="")).text)
    assert told.negative.pooled_text.any()
    assert own.render(empty).std() > 5


def test_a_second_pass_is_told_its_own_size(animator):
    seen = []
    hook = animator._unet.base.add_time_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0].tolist()))
    animator.load(BARE)
    animator.render(item(second_pass=SecondPass(scale=2.0), num_inference_steps=2, guidance_scale=1.0))
    hook.remove()
    assert seen[0] == [16, 32, 0, 0, 16, 32] * 4
    assert seen[-1] == [32, 64, 0, 0, 32, 64] * 4


@pytest.fixture(scope="module")
def personal(files):
    """Files that change an SDXL base, by the fields of an entry."""
    write_personal_files(files, files / "other")
    unet = load_unet(str(files / "base"))
    block = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    motion_lora = {
        f"{block}.processor.to_q_lora.{n}.weight": torch.randn(shape)
        for n, shape in (("down", (2, 16)), ("up", (16, 2)))
    }
    save_file(motion_lora, files / "motion_lora.safetensors")
    nets = {"net": str(files / "net.safetensors"), "picture": str(files / "picture.png")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
        for name, parameter in net.named_parameters():
            if name.startswith("controlnet_"):
                nn.init.normal_(parameter, std=0.1)
    save_file(net.state_dict(), nets["net"])
    Image.effect_noise((32, 16), 80).convert("RGB").save(nets["picture"])
    nets["adapter"] = write_ip_adapter(files / "adapter.safetensors", unet)
    nets["image_encoder"] = build_image_encoder(files / "image_encoder")
    return nets


def test_each_file_counts_and_nothing_of_it_stays(files, personal, animator):
    def path(name):
        return str(files / f"{name}.safetensors")

    entries = {
        "bare": {},
        "single": {"checkpoint": path("single")},
        "vae": {"vae": str(files / "other" / "vae")},
        "kohya": {"loras": ({"path": path("kohya")},)},
        "te2": {"loras": ({"path": path("te2")},)},
        "embedding": {"embeddings": ({"path": path("grey")},)},
        "motion": {"motion_loras": ({"path": path("motion_lora")},)},
    }
    frames = {}
    for name, weights in entries.items():
        animator.load(Entry(name="x", **weights))
        frames[name] = animator.render(item())
    assert len({found.tobytes() for found in frames.values()}) == len(entries)
    for name, same in (
        ("bare", {}),
        ("single", {"checkpoint": str(files / "other")}),
        ("kohya", {"loras": ({"path": path("diffusers")},)}),
    ):
        animator.load(Entry(name="x", **same))
        np.testing.assert_array_equal(animator.render(item()), frames[name])
    with pytest.raises(UserError, match="half' does not fit: its vectors are 16 wide for the text_encoder; the base's"):
        animator.load(Entry(name="x", embeddings=({"path": path("half")},)))
    animator.load(BARE)
    np.testing.assert_array_equal(animator.render(item()), frames["bare"])


@pytest.mark.parametrize(
    "settings",
    [
        {"context": Context(length=3, overlap=1), "loop": True, "prompt": {0: "a red circle", 3: "a blue circle"}},
        {"free_init": FreeInit(iterations=2), "sampler": "euler"},
        {"second_pass": SecondPass(scale=2.0), "prompt_syntax": "a1111", "prompt": "a (red:1.2) BREAK circle"},
        {"controls": [{"net": "net", "pictures": "picture"}]},
        {"controls": [{"net": "net", "pictures": "picture"}], "prompt": {0: "a red circle", 3: "a blue circle"}},
        {"images": [{"adapter": "adapter", "pictures": "picture"}], "image_encoder": "image_encoder"},
    ],
    ids="-".join,
)
def test_what_leads_a_clip_goes_with_sdxl(personal, animator, settings):
    def named(value):
        if isinstance(value, dict):
            return {name: named(each) for name, each in value.items()}
        if isinstance(value, list):
            return [named(each) for each in value]
        return personal.get(value, value) if isinstance(value, str) else value

    animator.load(BARE)
    plain, found = animator.render(item()), animator.render(item(**named(settings)))
    assert found.shape[1:] == (plain.shape[1:] if "second_pass" not in settings else (32, 64, 3))
    assert found.shape != plain.shape or (found != plain).any()
    assert found.std() > 5


def test_hotshots_modules_keep_their_own_schedule(files, animator):
    path = write_motion(files / "hotshot.safetensors", files / "base", version="hotshotxl")
    hotshot = Animator(str(files / "base"), path, schedule=None, device="cpu")
    assert hotshot._schedule == PUBLISHED["hotshotxl"] != animator._schedule == PUBLISHED["sdxl"]
    animator.load(BARE)
    assert (hotshot.render(item()) != animator.render(item())).any()
