"""Captions of any length: what they are encoded to, and that it depends on the caption alone."""

import pytest
import torch

from animatediff.models.prompts.pieces import plain_sections
from animatediff.models.text_encoder import PromptEncoder
from animatediff.sprites.shipped import BASE
from animatediff.training.config import TrainingConfig
from animatediff.training.text import CaptionEncoder
from animatediff.training.trainer import Trainer
from animatediff.weights.base import load_text_encoder, load_text_encoders
from animatediff.weights.base_facts import BaseFacts
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")
LONG = "a large red star moving left on a dark blue background, " * 4
CAPTIONS = ["a red (circle:1.5)", LONG, "", LONG * 3]


@pytest.fixture(scope="module")
def facts():
    return BaseFacts(str(BASE))


def encoder(facts, chunks):
    return CaptionEncoder(facts, load_text_encoders(str(BASE)), CPU, torch.float32, chunks=chunks)


def test_one_chunk_is_what_it_always_was(facts):
    prompts = PromptEncoder(*load_text_encoder(str(BASE)))
    found = encoder(facts, 1)(CAPTIONS, height=8, width=8).text
    assert torch.equal(found, torch.cat([prompts.encode([caption]) for caption in CAPTIONS]))


def test_every_caption_has_its_chunks_and_only_plain_words(facts):
    prompts = PromptEncoder(*load_text_encoder(str(BASE)))
    found = encoder(facts, 3)(CAPTIONS, height=8, width=8).text
    empty = prompts.encode([""])
    assert found.shape == (4, 3 * 24, 128)
    assert torch.equal(found[0], torch.cat([prompts.encode([CAPTIONS[0]]), empty, empty], dim=1)[0])
    assert torch.equal(found[3], prompts.encode_chunks(plain_sections(CAPTIONS[3]))[0, : 3 * 24])
    # Each of the sentences, which end in a comma, is a chunk.
    sentence = prompts.encode([LONG.split(",")[0] + ","])
    assert torch.equal(found[1], sentence.repeat(1, 3, 1)[0])


def test_a_caption_s_numbers_depend_on_no_neighbour(facts):
    together = encoder(facts, 2)(CAPTIONS, height=8, width=8).text
    alone = encoder(facts, 2)
    assert torch.equal(together, torch.cat([alone([caption], height=8, width=8).text for caption in CAPTIONS]))


def test_a_run_trains_with_its_number_of_chunks(tmp_path):
    trainer = Trainer(
        TrainingConfig(
            dataset_uri=write_dataset(tmp_path / "data", shards=(2,), shapes=((2, 4, 8, 8),)),
            base=str(build_base(tmp_path / "base")),
            text={"chunks": 2},
            train={"num_steps": 1, "batch_size": 1},
        ),
        device=CPU,
    )
    assert trainer._caption_encoder(["a red circle"], height=8, width=8).text.shape == (1, 2 * 77, 32)
    ((_, result),) = trainer.steps(0)
    assert result.loss_sums.isfinite().all()
