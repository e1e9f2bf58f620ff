"""The world's personalised checkpoints are files as users have them, and change what they should."""

import pytest
import torch

from animatediff.sprites.models.fitting import Fit
from animatediff.sprites.personalise import Lesson, train_dreambooth, train_embedding, train_lora
from animatediff.weights import checkpoints, textual_inversion
from animatediff.weights.base import load_text_encoder, load_unet, load_vae
from animatediff.weights.identify.weights_file import identify_uri
from animatediff.weights.lora import lora_file
from tests.support_base import build_base

LESSON = Lesson(Fit(num_steps=3, lr=1e-2, warmup=1, ema_decay=0.0, weight_decay=0.0), num_pictures=8, batch_size=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("bases") / "base"))


@pytest.fixture(scope="module")
def modules(base):
    return {"unet": load_unet(base), "vae": load_vae(base), "text_encoder": load_text_encoder(base)[1].float()}


def test_dreambooth_is_one_file_of_all_three_parts_with_a_unet_of_its_own(base, modules, tmp_path):
    uri = str(tmp_path / "cel.safetensors")
    train_dreambooth(base, uri, seed=0, lesson=LESSON)
    assert (identify_uri(uri).family, identify_uri(uri).dtype) == ("checkpoint", "float16")
    states = checkpoints.load(uri, modules)
    for part in ("vae", "text_encoder"):
        for name, tensor in modules[part].state_dict().items():
            assert torch.equal(states[part][name].float(), tensor.half().float()), name
    changed = [
        name
        for name, tensor in modules["unet"].state_dict().items()
        if not torch.equal(states["unet"][name], tensor.half())
    ]
    assert len(changed) > 0.9 * len(states["unet"])


def test_a_lora_in_kohyas_layout_changes_the_unets_transformers_alone(base, modules, tmp_path):
    uri = str(tmp_path / "chalk.safetensors")
    train_lora(base, uri, seed=0, lesson=LESSON)
    assert (identify_uri(uri).family, identify_uri(uri).rank) == ("lora", "4")
    states = {part: module.state_dict() for part, module in modules.items()}
    changes = lora_file.read_deltas(uri, states, family="lora")
    changed = {name for _, name in changes}
    assert {part for part, _ in changes} == {"unet"}
    assert changed == {
        name
        for name, tensor in states["unet"].items()
        if ".attentions." in name and name.endswith(".weight") and tensor.ndim > 1
    }


def test_a_learned_word_is_a_vector_away_from_where_it_began(base, modules, tmp_path):
    uri = str(tmp_path / "brown.safetensors")
    train_embedding(base, uri, seed=0, lesson=LESSON)
    embedding = textual_inversion.read(uri)
    table = modules["text_encoder"].get_input_embeddings().weight
    assert embedding.token == "<brown>"
    assert embedding.vectors["text_encoder"].shape == (1, table.shape[1])
    tokenizer = load_text_encoder(base)[0]
    began = table[tokenizer("orange").input_ids[1]]
    assert 0 < (embedding.vectors["text_encoder"] - began).abs().max() < 1
