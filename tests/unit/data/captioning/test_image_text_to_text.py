import numpy as np
import pytest
from transformers import CLIPTextConfig, CLIPTextModel

from animatediff.data.captioning.captioner import load_captioner
from animatediff.data.captioning.captions import CaptionReason, CaptionRequest
from animatediff.data.captioning.config import CaptionConfig
from animatediff.errors import UserError
from tests.unit.data.captioning import tiny_models
from tests.unit.data.captioning.tiny_models import noise


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    tiny_models.blip(folder)
    return str(folder)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen")
    tiny_models.qwen(folder)
    return str(folder)


@pytest.fixture(params=["blip", "qwen"])
def model(request):
    return request.getfixturevalue(request.param)


def answers(folder, shots, **fields):
    """What the model itself says: random words are no captions, and would be rejected."""
    config = CaptionConfig(transformers=folder, **{"prompt": "word3 word4", "max_tokens": 10} | fields)
    requests = [CaptionRequest(str(i), frames) for i, frames in enumerate(shots)]
    given = list(load_captioner(config)._model.answers(requests))
    assert [answer.shot_id for answer in given] == [request.shot_id for request in requests]
    return given


def texts(*args, **fields):
    return [answer.text for answer in answers(*args, **fields)]


def test_answers_are_the_same_again_whatever_else_is_in_the_batch(model):
    shots = [noise(1 + i % 3, seed=i) for i in range(5)]
    alone = texts(model, shots, batch_size=1)
    assert texts(model, shots, batch_size=3) == alone
    assert texts(model, [shots[2], shots[4]], batch_size=2) == [alone[2], alone[4]]
    assert len(set(alone)) > 1
    assert all(text.startswith("word") for text in alone)


def test_a_model_without_a_chat_looks_at_the_middle_frame(blip):
    first, other = noise(3, seed=1), noise(3, seed=2)
    other[1] = first[1]
    assert len(set(texts(blip, [first, other]))) == 1
    assert texts(blip, [first], prompt="word7") == texts(blip, [first])


def test_a_model_that_chats_looks_at_all_frames_and_is_asked_the_prompt(qwen):
    first, other = noise(3, seed=1), noise(3, seed=1)
    other[2] = noise(1, seed=5)[0]
    assert len(set(texts(qwen, [first, other, first[:2]]))) == 3
    assert texts(qwen, [first], prompt="word7 word8 word9") != texts(qwen, [first])


def test_an_answer_that_ends_at_the_limit_of_tokens_is_cut(qwen):
    shots = [noise(1 + i % 3, seed=i) for i in range(5)]
    whole = answers(qwen, shots, max_tokens=64)
    assert not any(answer.is_cut for answer in whole)
    lengths = [answer.usage.answer_tokens for answer in whole]
    limit = max(lengths)
    assert min(lengths) < limit  # or nothing is told apart
    cut = answers(qwen, shots, max_tokens=limit)
    assert [answer.is_cut for answer in cut] == [length == limit for length in lengths]
    assert [answer.usage.answer_tokens for answer in cut] == lengths
    assert whole[2].usage.prompt_tokens > whole[0].usage.prompt_tokens > 0


def test_a_shot_that_the_model_cannot_take_costs_itself(qwen):
    shots = [noise(1), noise(1, h=2, w=900), noise(2)]
    given = answers(qwen, shots, batch_size=3)
    assert [answer.reason for answer in given] == [None, CaptionReason.FAILED, None]
    assert "aspect ratio" in given[1].detail
    assert [given[0].text, given[2].text] == texts(qwen, [shots[0], shots[2]])


def test_what_is_no_such_model_is_told(tmp_path):
    CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path)
    for folder in (str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(UserError, match=f"captions.transformers {folder}: "):
            answers(folder, [np.zeros((1, 8, 8, 3), np.uint8)])
