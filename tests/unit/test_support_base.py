"""The embedded base opens wherever Stable Diffusion 1.x opens."""

import hashlib
import json
import socket

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from animatediff.errors import UserError
from animatediff.sprites.models.tokenizer import learn_merges
from animatediff.sprites.scenes.drawing import render
from animatediff.sprites.scenes.world import caption, caption_words, sample_scenes
from tests.support_base import build_base


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", None)  # nothing is fetched
        return build_base(tmp_path_factory.mktemp("bases") / "base", layers_per_block=2)


@pytest.fixture(scope="module")
def pipeline(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, prompt):
    generator = torch.Generator().manual_seed(0)
    images = pipeline(prompt, num_inference_steps=2, height=64, width=64, generator=generator, output_type="np").images
    return images[0]


def test_the_pipeline_opens_and_draws_what_depends_on_the_prompt(pipeline):
    one = draw(pipeline, "a large red star moving left on a black background")
    assert one.shape == (64, 64, 3)
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(draw(pipeline, "a large red star moving left on a black background"), one)
    assert np.abs(draw(pipeline, "a small blue circle") - one).max() > 0
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None


def test_the_layout_is_stable_diffusions(folder):
    assert set(digests(folder)) >= {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    index = json.loads((folder / "model_index.json").read_text())
    classes = {part: index[part][1] for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    assert classes == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDIMScheduler",
    }


def test_the_unet_has_stable_diffusions_blocks(pipeline):
    unet = pipeline.unet
    assert list(unet.config.down_block_types) == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert list(unet.config.up_block_types) == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert unet.config.layers_per_block == 2
    assert all(width % 32 == 0 for width in unet.config.block_out_channels)
    assert unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size


def test_the_schedule_is_animatediffs(pipeline):
    config = pipeline.scheduler.config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "linear")
    assert (config.steps_offset, config.clip_sample) == (1, False)


def test_each_caption_word_is_one_token(pipeline):
    tokenizer = pipeline.tokenizer
    for word in caption_words():
        assert len(tokenizer(word).input_ids) == 3, word
    for scene in sample_scenes(50, 1):
        tokens = tokenizer(caption(scene)).input_ids
        assert len(tokens) == len(caption(scene).split()) + 2
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == caption(scene)


def test_any_text_can_be_tokenized(pipeline):
    tokens = pipeline.tokenizer("Zebra, 4k! 猫", padding="max_length", truncation=True).input_ids
    assert len(tokens) == 77
    assert tokens[0] == pipeline.tokenizer.bos_token_id
    # The end token also stands for the unknown; none comes before the padding.
    assert set(tokens[tokens.index(pipeline.tokenizer.eos_token_id) :]) == {pipeline.tokenizer.eos_token_id}
    assert tokens.index(pipeline.tokenizer.eos_token_id) > len("Zebra,4k!")
    assert pipeline.tokenizer.eos_token_id == pipeline.text_encoder.config.vocab_size - 1


def test_merges_rebuild_words_with_repeated_letters():
    words = ["aaaa", "aab", "banana"]
    merges = learn_merges(words)
    for word in words:
        symbols = [*word[:-1], word[-1] + "</w>"]
        for first, second in merges:
            i = 0
            while i < len(symbols) - 1:
                if (symbols[i], symbols[i + 1]) == (first, second):
                    symbols[i : i + 2] = [first + second]
                i += 1
        assert symbols == [word + "</w>"]


def test_latents_of_the_world_have_about_unit_variance(pipeline):
    frames = np.stack([render(s, num_frames=1, height=64, width=64)[0] for s in sample_scenes(18, 7)])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    assert latents.shape == (18, 4, 8, 8)
    assert 0.7 < latents.std() < 1.4


def test_a_seed_gives_the_same_bytes_and_leaves_torchs_own_alone(tmp_path, folder):
    state = torch.random.get_rng_state()
    assert digests(build_base(tmp_path / "again", layers_per_block=2)) == digests(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = digests(build_base(tmp_path / "other", seed=1, layers_per_block=2))
    assert (
        other["unet/diffusion_pytorch_model.safetensors"] != digests(folder)["unet/diffusion_pytorch_model.safetensors"]
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "other"]  # no drafts are left


def test_a_model_that_exists_is_left_alone(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert build_base(tmp_path) == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["model_index.json"]


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support_base.make_unet", lambda *args, **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_base(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="in the way"):
        build_base(tmp_path)
