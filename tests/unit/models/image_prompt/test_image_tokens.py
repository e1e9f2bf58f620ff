"""Pictures to image tokens: what CLIP sees of them, what stands for none, and how often the encoder runs."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from animatediff.diffusion.conditioning import Conditioning
from animatediff.models.image_prompt.image_encoder import ImageEncoder, preprocess
from animatediff.models.image_prompt.ip_adapter import image_tokens
from animatediff.weights.controls import ip_adapter_file
from tests.support_ip_adapter import EMBEDDING_WIDTH, IMAGE_SIZE, NUM_STATES, STATES_WIDTH, write_ip_adapter


def picture(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(224, 224), (300, 500), (640, 361), (97, 33), (1, 3), (225, 224)], ids=str)
def test_preprocessing_is_transformers(size):
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")  # its path in transformers 5
    for side in (224, 30):
        processor = clip.CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, return_tensors="pt"
        )
        expected = processor(Image.fromarray(picture(*size)), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(preprocess(picture(*size), side), torch.as_tensor(expected), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def encoder_model():
    torch.manual_seed(0)
    sizes = {"hidden_size": STATES_WIDTH, "projection_dim": EMBEDDING_WIDTH, "image_size": IMAGE_SIZE, "patch_size": 8}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "initializer_factor": 8.0}
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes, **layers)).eval()


@pytest.fixture
def encoder(encoder_model):
    """One that counts its runs."""
    found = ImageEncoder(encoder_model)
    found.runs = []
    handle = encoder_model.register_forward_pre_hook(lambda *_: found.runs.append(1))
    yield found
    handle.remove()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    with torch.device("meta"):
        unet = UNet2DConditionModel(block_out_channels=(32, 32, 64, 64), cross_attention_dim=24)
    folder = tmp_path_factory.mktemp("adapters")
    return {
        variant: ip_adapter_file.read(write_ip_adapter(folder / f"{variant}.safetensors", unet, variant))
        for variant in ("base", "plus", "full-face")
    }


@pytest.mark.parametrize(("variant", "num_tokens"), [("base", 4), ("plus", 5), ("full-face", NUM_STATES)])
@torch.no_grad()
def test_tokens_of_pictures_and_of_none(adapters, encoder, encoder_model, variant, num_tokens):
    adapter, pictures = adapters[variant], [picture(50, 70), picture(70, 50, seed=1)]
    found = image_tokens(pictures, adapter, encoder)
    assert found.pictures.shape == (2, num_tokens, 24)
    assert found.of_no_picture.shape == (num_tokens, 24)

    def reads(pixels):
        out = encoder_model(pixels, output_hidden_states=True)
        return out.image_embeds if variant == "base" else out.hidden_states[-2]

    pixels = torch.stack([preprocess(one, IMAGE_SIZE) for one in pictures])
    torch.testing.assert_close(found.pictures, adapter.image_proj(reads(pixels)))
    nothing = torch.zeros(1, EMBEDDING_WIDTH) if variant == "base" else reads(torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    torch.testing.assert_close(found.of_no_picture[None], adapter.image_proj(nothing))


def test_the_encoder_runs_once_a_picture(adapters, encoder):
    pictures = [picture(40, 40, seed=seed) for seed in range(3)]
    first = image_tokens(pictures, adapters["base"], encoder)
    assert len(encoder.runs) == 3 + 1  # and for none
    again = image_tokens(pictures[::-1], adapters["base"], encoder)
    image_tokens(pictures, adapters["plus"], encoder)
    assert len(encoder.runs) == 4
    assert torch.equal(again.pictures, first.pictures.flip(0))
    alone = image_tokens(pictures[1:2], adapters["base"], ImageEncoder(encoder.model))
    assert torch.equal(alone.pictures[0], first.pictures[1])  # whatever is read beside it


def test_the_cache_has_an_end(encoder):
    for seed in range(70):
        encoder.read(picture(8, 8, seed=seed))
    assert len(encoder.runs) == 70
    encoder.read(picture(8, 8, seed=69))
    assert len(encoder.runs) == 70
    encoder.read(picture(8, 8, seed=0))
    assert len(encoder.runs) == 71


def test_prompts_are_one_image_or_one_a_frame(adapters, encoder):
    adapter, pictures = adapters["base"], [picture(40, 40, seed=seed) for seed in range(3)]
    tokens = image_tokens(pictures, adapter, encoder)
    positive, negative = tokens.prompts(adapter, scale=0.5)  # one a frame
    assert positive.tokens.shape == negative.tokens.shape == (1, 3, 4, 24)
    assert torch.equal(negative.tokens[0, 2], tokens.of_no_picture)
    positive, negative = tokens.joined().prompts(adapter, mask=torch.ones(8, 8))
    assert positive.tokens.shape == negative.tokens.shape == (1, 12, 24)
    assert torch.equal(positive.tokens[0, 4:8], tokens.pictures[1])
    text = torch.zeros(1, 7, 24)  # both halves of the guidance go into one batch
    both = Conditioning.cat([Conditioning(text, image_prompts=(one,)) for one in (negative, positive)])
    assert both.image_prompts[0].tokens.shape == (2, 12, 24)
