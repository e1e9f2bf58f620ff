"""Embedding files in the layouts that users have."""

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.models.embedding import Embedding
from animatediff.weights import textual_inversion


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def a1111(vectors, name="another name"):
    """As A1111's own trainer saves it."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors.requires_grad_()},
        "name": name,
        "step": 999,
        "sd_checkpoint": "deadbeef",
        "sd_checkpoint_name": None,
    }


def write(path, content):
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return str(path)


def assert_reads(path, token, vectors, part="text_encoder"):
    found = textual_inversion.read(path)
    assert found.token == token
    assert list(found.vectors) == [part]
    assert found.vectors[part].dtype == torch.float32
    assert torch.equal(found.vectors[part], vectors.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 8, 75])
def test_a1111s_files_are_named_by_their_file(tmp_path, dtype, count):
    vectors = random(count, 768, dtype=dtype)
    for name, content in {
        "easynegative.pt": a1111(vectors.clone()),
        "bad-hands-5.v1.pt": {"emb_params": vectors},
        "bad hands.safetensors": {"emb_params": vectors},
        "flat.safetensors": {"string_to_param.*": vectors},
        "star.safetensors": {"*": vectors},
    }.items():
        path = tmp_path / name
        assert_reads(write(path, content), path.stem, vectors)


def test_the_placeholders_id_may_be_a_tensor(tmp_path):
    vectors = random(2, 768)
    content = {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": vectors}}
    assert_reads(write(tmp_path / "embeddings.pt", content), "embeddings", vectors)


def test_what_a_trainer_saved_beside_the_vectors_is_ignored(tmp_path):
    vectors, moments = random(2, 768), torch.ones(2, 768)
    optimizer = {"optimizer_state_dict": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": moments}}}}
    for name, content in {
        "plain.pt": {"step": torch.tensor(3), "emb_params": vectors},
        "trained.pt": optimizer | a1111(vectors.clone()),
        "flat.safetensors": {"optimizer.exp_avg": moments, "string_to_param.*": vectors},
    }.items():
        path = tmp_path / name
        assert_reads(write(path, content), path.stem, vectors)


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_diffusers_files_carry_their_token(tmp_path, suffix, dtype):
    one, several = random(768, dtype=dtype), random(3, 768, dtype=dtype)
    path = tmp_path / f"learned_embeds.{suffix}"
    assert_reads(write(path, {"<cat-toy>": one}), "<cat-toy>", one[None])
    assert_reads(write(path, {"<my.cat toy>": several}), "<my.cat toy>", several)
    assert_reads(write(path, {"sks": several}), "sks", several)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_sdxls_pair(tmp_path, names, suffix):
    clip_l, clip_g = random(2, 768, dtype=torch.float16), random(2, 1280, dtype=torch.float16)
    content = dict(zip(names, (clip_l, clip_g), strict=True))
    found = textual_inversion.read(write(tmp_path / f"negativeXL.{suffix}", content), base="sdxl")
    assert found.token == "negativeXL"
    assert found.vectors.keys() == {"text_encoder", "text_encoder_2"}
    assert torch.equal(found.vectors["text_encoder"], clip_l.float())
    assert torch.equal(found.vectors["text_encoder_2"], clip_g.float())


def test_sdxls_pair_as_two_files(tmp_path):
    first, second = random(1, 768), random(1, 1280)
    assert_reads(write(tmp_path / "a.safetensors", {"<cat>": first}), "<cat>", first)
    assert_reads(write(tmp_path / "b.safetensors", {"<cat>": second}), "<cat>", second, "text_encoder_2")


def test_a_given_token_comes_first(tmp_path):
    for name, content in {
        "a.bin": {"<cat-toy>": random(768)},
        "b.pt": a1111(random(1, 768)),
        "c.safetensors": {"clip_l": random(1, 768), "clip_g": random(1, 1280)},
    }.items():
        assert textual_inversion.read(write(tmp_path / name, content), token="my cat").token == "my cat"


def test_the_vectors_are_no_view_of_the_file(tmp_path):
    path = write(tmp_path / "a.safetensors", {"<cat>": random(1, 768)})
    textual_inversion.read(path).vectors["text_encoder"].zero_()
    assert_reads(path, "<cat>", random(1, 768))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"emb_params": torch.full((1, 768), torch.nan)}, "emb_params has NaN or infinite values"),
        ({"emb_params": torch.full((1, 768), torch.inf, dtype=torch.float16)}, "NaN or infinite"),
        ({"emb_params": torch.full((1, 768), 1e300, dtype=torch.float64)}, "NaN or infinite"),
        ({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(3, 1280)}, "2 for the text_encoder and 3 for the text_e"),
    ],
)
def test_unusable_vectors_are_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        textual_inversion.read(write(tmp_path / "broken.safetensors", content))
    assert "broken.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"emb_params": torch.ones(76, 768)},
        {"emb_params": torch.ones(1, 2, 768)},
        {"emb_params": torch.ones(())},
        {"emb_params": torch.ones(0, 768)},
        {"emb_params": torch.ones(1, 768, dtype=torch.int32)},
        {"embeddings.token_embedding.weight": torch.ones(1000, 768)},
        {"<one>": torch.ones(768), "<two>": torch.ones(768)},
        {"string_to_param.*": torch.ones(1, 768), "string_to_param.two": torch.ones(1, 768)},
        {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280), "t5xxl": torch.ones(1, 4096)},
        {"lora_unet_a.lora_up.weight": torch.ones(4, 2), "lora_unet_a.lora_down.weight": torch.ones(2, 4)},
        {"string_to_token.*": torch.tensor(265)},
    ],
)
@pytest.mark.parametrize("checked", [True, False])
def test_other_content_is_refused(tmp_path, monkeypatch, content, checked):
    if not checked:  # the reader's own checks hold without the identification before it
        monkeypatch.setattr(textual_inversion, "expect_family", lambda *args, **options: None)
    with pytest.raises(UserError, match=r"other\.safetensors") as caught:
        textual_inversion.read(write(tmp_path / "other.safetensors", content))
    assert "\n" not in str(caught.value)


def test_sdxls_pair_is_not_for_sd1(tmp_path):
    path = write(tmp_path / "xl.safetensors", {"clip_l": random(1, 768), "clip_g": random(1, 1280)})
    with pytest.raises(UserError, match=r"xl\.safetensors"):
        textual_inversion.read(path, base="sd1")


def test_an_embedding_needs_a_token():
    with pytest.raises(UserError, match="token is blank"):
        Embedding(" ", {"text_encoder": torch.ones(1, 768)})
