"""The encoding of weighted and of long prompts, against A1111's arithmetic written out with transformers' own calls."""

import logging

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from animatediff.models.embedding import Embedding
from animatediff.models.prompts.a1111_syntax import parse
from animatediff.models.prompts.pieces import plain_sections
from animatediff.models.text_encoder import PromptEncoder
from animatediff.sprites.shipped import BASE
from animatediff.weights.base import load_text_encoder

UP = 1.1
RED_WORD = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def parts():
    """The sprite world's trained encoder: 22 tokens a chunk. Its tokenizer's padding is not its end, as in SD 2."""
    tokenizer, encoder = load_text_encoder(str(BASE))
    tokenizer.pad_token = "red"
    return tokenizer, encoder


@pytest.fixture
def prompts(parts):
    return PromptEncoder(*parts)


def states(parts, words):
    """(n d) hidden states, before the last norm and behind it, of [(word or vectors, weight)] in one chunk; weights."""
    tokenizer, encoder = parts
    ids, weights, vectors = [tokenizer.bos_token_id], [1.0], {}
    for word, weight in words:
        if isinstance(word, torch.Tensor):
            vectors |= {len(ids) + row: vector for row, vector in enumerate(word)}
            new = [5] * len(word)
        else:
            new = tokenizer(word, add_special_tokens=False).input_ids
        ids, weights = ids + new, weights + [weight] * len(new)
    room = tokenizer.model_max_length
    assert len(ids) < room
    ids.append(tokenizer.eos_token_id)
    ids += [tokenizer.pad_token_id] * (room - len(ids))
    weights += [1.0] * (room - len(weights))
    rows = encoder.get_input_embeddings()(torch.tensor(ids))
    for place, vector in vectors.items():
        rows[place] = vector
    hook = encoder.get_input_embeddings().register_forward_hook(lambda *_: rows[None])
    with hook, torch.no_grad():
        found = encoder(torch.tensor([ids]), output_hidden_states=True)
    return found, torch.tensor(weights)[:, None]


def expected(parts, *chunks):
    """(1 n d): the last hidden states times the weights, each chunk brought back to its mean."""
    encoded = []
    for words in chunks:
        found, weights = states(parts, words)
        hidden = found.last_hidden_state[0]
        weighted = hidden * weights
        encoded.append(weighted * hidden.mean() / weighted.mean())
    return torch.cat(encoded)[None]


def last_norm(encoder):
    (norm,) = (module for name, module in encoder.named_modules() if name.endswith("final_layer_norm"))
    return norm


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "chunks"),
    [
        ("a red circle", [[("a red circle", 1)]]),
        ("a (red:1.5) circle", [[("a", 1), ("red", 1.5), ("circle", 1)]]),
        ("a (red) [circle]", [[("a", 1), ("red", UP), ("circle", 1 / UP)]]),
        ("((a red) circle:0.7) moving", [[("a red", 0.7 * UP), ("circle", 0.7), ("moving", 1)]]),
        ("(a [red (circle:2)]", [[("a", UP), ("red", 1), ("circle", 2)]]),
        ("(red:0) circle", [[("red", 0), ("circle", 1)]]),
        # Brackets part words, as in A1111: what is apart is tokenised apart.
        ("cir(cle)", [[("cir", 1), ("cle", UP)]]),
        ("a red BREAK (circle:1.2)", [[("a red", 1)], [("circle", 1.2)]]),
        ("BREAK a", [[], [("a", 1)]]),
        ("", [[]]),
        ("red " * 20 + "(blue blue blue:1.4)", [[("red " * 20, 1), ("blue blue", 1.4)], [("blue", 1.4)]]),
    ],
)
def test_weights_and_chunks(parts, prompts, prompt, chunks):
    same(prompts.encode_chunks(parse(prompt)), expected(parts, *chunks))


def test_behind_a_near_comma_the_words_move_on_with_their_weights(parts, prompts):
    prompt = "red " * 14 + "circle, a (blue blue blue blue blue:1.5) square"
    chunks = [("red " * 14 + "circle,", 1)], [("a", 1), ("blue " * 5, 1.5), ("square", 1)]
    same(prompts.encode_chunks(parse(prompt)), expected(parts, *chunks))


def test_learned_words_carry_the_weight_of_their_piece(parts, prompts):
    prompts.set_embeddings([Embedding("sks", {"text_encoder": RED_WORD})])
    same(
        prompts.encode_chunks(parse("a (sks, blue:1.3) circle")),
        expected(parts, [("a", 1), (RED_WORD, 1.3), (", blue", 1.3), ("circle", 1)]),
    )


@pytest.mark.parametrize("number", [19, 20, 21, 22])
def test_a_learned_word_that_does_not_fit_begins_the_next_chunk(parts, prompts, number):
    prompts.set_embeddings([Embedding("sks", {"text_encoder": RED_WORD})])
    before, word = ("red " * number, 1), (RED_WORD, 1.3)
    chunks = [[before, word]] if number == 19 else [[before], [word]]
    same(prompts.encode_chunks(parse("red " * number + "(sks:1.3)")), expected(parts, *chunks))


def test_clip_skip_comes_before_the_weights(parts, prompts):
    found, weights = states(parts, [("a", 1), ("red", 1.5)])
    hidden = last_norm(parts[1])(found.hidden_states[-2])[0]
    weighted = hidden * weights
    same(prompts.encode_chunks(parse("a (red:1.5)"), 1), (weighted * hidden.mean() / weighted.mean())[None])


def test_sdxl_brings_no_mean_back_and_pools_the_first_chunk(parts):
    tokenizer, _ = parts
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    second = CLIPTextModelWithProjection(config).eval()
    prompts = PromptEncoder(tokenizer, second, part="text_encoder_2")
    hidden, pooled = prompts.encode_chunks_xl(parse("a (red:1.5) BREAK blue"))
    (first, weights), (last, _) = (
        states((tokenizer, second), words) for words in ([("a", 1), ("red", 1.5)], [("blue", 1)])
    )
    same(hidden, torch.cat([first.hidden_states[-2] * weights, last.hidden_states[-2]], dim=1))
    same(pooled, first.text_embeds)
    alone = prompts.encode_chunks_xl(plain_sections("a red"))
    assert all(torch.equal(a, b) for a, b in zip(alone, prompts.encode_xl(["a red"]), strict=True))


@pytest.mark.parametrize("prompt", ["", "a red circle, moving left on a dark blue background", "red " * 22])
@pytest.mark.parametrize("clip_skip", [0, 1])
def test_without_marks_a_short_prompt_is_the_plain_one_bit_for_bit(prompts, prompt, clip_skip):
    assert torch.equal(prompts.encode_chunks(parse(prompt), clip_skip), prompts.encode([prompt], clip_skip))


def test_a_chunk_does_not_depend_on_the_others(prompts):
    alone = [prompts.encode_chunks(parse(text)) for text in ("a (red:1.5)", "blue")]
    assert torch.equal(prompts.encode_chunks(parse("a (red:1.5) BREAK blue")), torch.cat(alone, dim=1))


def test_a_number_of_chunks_is_filled_up_with_empty_ones(prompts):
    found = prompts.encode_chunks(parse("a (red:1.5)"), num_chunks=3)
    empty = prompts.encode([""])
    assert torch.equal(found, torch.cat([prompts.encode_chunks(parse("a (red:1.5)")), empty, empty], dim=1))


def test_what_is_beyond_the_number_of_chunks_is_cut_off_and_told(prompts, caplog):
    sections = plain_sections("red " * 44 + "blue star")
    with caplog.at_level(logging.WARNING, logger="animatediff"):
        found = prompts.encode_chunks(sections, num_chunks=2)
        assert torch.equal(found, prompts.encode_chunks(sections)[:, :48])
    (record,) = caplog.records
    assert record.getMessage().endswith("has 3 chunks of at most 22 tokens, 2 are read; cut off: 'blue star'")
    assert prompts.count_chunks(sections) == 3


def test_half_precision_is_rounded_once(parts):
    tokenizer, encoder = load_text_encoder(str(BASE))
    prompts = PromptEncoder(tokenizer, encoder.to(torch.bfloat16))
    found = prompts.encode_chunks(parse("a (red:1.5)"))
    assert found.dtype == torch.bfloat16
    assert torch.equal(prompts.encode_chunks(parse("a red")), prompts.encode(["a red"]))


def test_a_mean_that_is_rounding_is_not_divided_by():
    """A text encoder whose last norm has learned nothing gives means of zero."""
    tokenizer, encoder = load_text_encoder(str(BASE))
    torch.nn.init.ones_(last_norm(encoder).weight)
    torch.nn.init.zeros_(last_norm(encoder).bias)
    prompts = PromptEncoder(tokenizer, encoder)
    plain = prompts.encode(["a red"])
    weighted = prompts.encode_chunks(parse("a (red:1.5)"))
    torch.testing.assert_close(weighted[:, 2], plain[:, 2] * 1.5)
    assert torch.equal(weighted[:, 0], plain[:, 0])
