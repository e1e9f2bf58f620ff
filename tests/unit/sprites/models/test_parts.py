"""Parts of other sizes than the embedded base's fit each other and diffusers' pipeline."""

import pytest
import torch

from animatediff.sprites.models.parts import make_pipeline, make_text_encoder, make_unet, make_vae
from animatediff.sprites.models.tokenizer import build_tokenizer
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE


@pytest.fixture
def tokenizer(tmp_path):
    return build_tokenizer(["a", "red", "star"], tmp_path, max_length=16)


@pytest.mark.parametrize("num_levels", [3, 4])
@pytest.mark.parametrize("mid_block_add_attention", [True, False])
def test_a_vae_halves_the_picture_at_each_level_and_has_the_channels_asked_for(mid_block_add_attention, num_levels):
    vae = make_vae(
        [8, 8, 16, 16][:num_levels],
        latent_channels=6,
        norm_num_groups=4,
        mid_block_add_attention=mid_block_add_attention,
    )
    pixels = torch.zeros(2, 3, SAMPLE_SIZE, SAMPLE_SIZE)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        side = SAMPLE_SIZE // 2 ** (num_levels - 1)
        assert latents.shape == (2, 6, side, side)
        assert vae.decode(latents).sample.shape == pixels.shape
    assert (vae.encoder.mid_block.attentions[0] is not None) == mid_block_add_attention
    assert not vae.training


def test_a_text_encoder_reads_as_many_tokens_as_its_tokenizer_writes(tokenizer):
    encoder = make_text_encoder(tokenizer, width=24)
    ids = tokenizer(["a red star"], padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.shape == (1, 16)
    with torch.no_grad():
        one, other = encoder(ids).last_hidden_state, encoder(ids.flip(1)).last_hidden_state
    assert one.shape == (1, 16, 24)
    assert not torch.equal(one, other)
    assert encoder.config.vocab_size == len(tokenizer)
    assert encoder.config.max_position_embeddings == 16


@pytest.mark.parametrize("widths", [[16, 32], [16, 16, 32], [8, 16, 16, 32]])
def test_a_unet_has_a_level_for_each_width_and_text_on_all_but_the_deepest(widths):
    unet = make_unet(widths, layers_per_block=1, latent_channels=6, latent_size=8, text_width=24)
    assert [hasattr(block, "attentions") for block in unet.down_blocks] == [True] * (len(widths) - 1) + [False]
    assert [hasattr(block, "attentions") for block in unet.up_blocks] == [False] + [True] * (len(widths) - 1)
    latents, text = torch.randn(2, 6, 8, 8), torch.randn(2, 16, 24)
    with torch.no_grad():
        one, other = unet(latents, 10, text).sample, unet(latents, 10, -text).sample
    assert one.shape == latents.shape
    assert torch.isfinite(one).all()
    assert not torch.equal(one, other)


def test_the_parts_together_draw_and_are_saved_and_read_again(tmp_path, tokenizer):
    pipeline = make_pipeline(
        make_vae([8, 8, 8, 8], latent_channels=6, norm_num_groups=4),
        make_text_encoder(tokenizer, width=24),
        tokenizer,
        make_unet([8, 16, 16], layers_per_block=1, latent_channels=6, latent_size=8, text_width=24),
    )
    pipeline.save_pretrained(tmp_path / "pipeline")
    read = type(pipeline).from_pretrained(tmp_path / "pipeline")
    drawn = []
    for each in (pipeline, read):
        each.set_progress_bar_config(disable=True)
        settings = {"num_inference_steps": 2, "output_type": "pt", "generator": torch.Generator().manual_seed(0)}
        drawn.append(each("a red star", **settings).images)
    assert drawn[0].shape == (1, 3, SAMPLE_SIZE, SAMPLE_SIZE)
    assert torch.equal(drawn[0], drawn[1])
    assert read.tokenizer.model_max_length == 16
