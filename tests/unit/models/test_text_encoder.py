"""Prompts with learned words: a vector that equals a word's row of the table must do what the word does."""

import hashlib
import logging

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from animatediff.errors import UserError
from animatediff.models.embedding import Embedding
from animatediff.models.prompts.words import uses
from animatediff.models.text_encoder import PromptEncoder
from animatediff.sprites.scenes.world import caption_words
from animatediff.weights.base import load_text_encoder
from tests.support_base import build_base

WIDTH = 32
WORDS = sorted(word for word in caption_words() if word.isalpha())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def parts(folder):
    return load_text_encoder(folder)


@pytest.fixture
def prompts(parts):
    return PromptEncoder(*parts)


def row(parts, word):
    """(1 d): what the table holds for a word."""
    tokenizer, encoder = parts
    (token_id,) = tokenizer(word, add_special_tokens=False).input_ids
    return encoder.get_input_embeddings().weight[[token_id]].clone()


def embedding(token, vectors):
    return Embedding(token, {"text_encoder": vectors})


def random(count=1, seed=0):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def plain(parts, text):
    """The encoding by transformers' own calls."""
    tokenizer, encoder = parts
    ids = tokenizer([text], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(ids).last_hidden_state


def fingerprint(encoder):
    digest = hashlib.sha256()
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@settings(max_examples=150)
@example(text="", token="<x>")
@example(text="a red circle <|endoftext|> it's 4k, Zebra\t猫 é", token="nothing")
@given(text=st.text(max_size=120), token=st.text(min_size=1).filter(str.strip))
def test_text_without_learned_words_is_encoded_as_ever(parts, text, token):
    prompts = PromptEncoder(*parts)
    assert torch.equal(prompts.encode([text]), plain(parts, text))
    prompts.set_embeddings([embedding(token, random())])
    assert uses(text, token) or torch.equal(prompts.encode([text]), plain(parts, text))


@settings(max_examples=100)
@given(
    words=st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), max_size=80),
    separators=st.lists(st.sampled_from([" ", "  ", ", ", "\n", ". ", " (", " 4k ", " Zebra "]), min_size=80),
    spelling=st.sampled_from(["<{}>", "my-{}-5", "{}_x", "my {}", "{}.v1", "{}", "é{}"]),
)
def test_vectors_that_equal_words_stand_for_them(parts, words, separators, spelling):
    prompts = PromptEncoder(*parts)
    learned = {word for word, is_learned in words if is_learned}
    prompts.set_embeddings([embedding(spelling.format(word), row(parts, word)) for word in sorted(learned)])
    pairs = list(zip(words, separators, strict=False))
    text = "".join(word + separator for (word, _), separator in pairs)
    given = "".join((spelling.format(word) if is_learned else word) + end for (word, is_learned), end in pairs)
    assert torch.equal(prompts.encode([given]), plain(parts, text))


@pytest.mark.parametrize(
    "prompt",
    ["a {}, circle", "a {} circle", "{}", "({})", "a {}.", "a,{},circle", "{}'s circle", "A {}-circle", "{} {}\n{}"],
)
@pytest.mark.parametrize(
    "token", ["sks", "<cat-toy>", "bad-hands-5", "my style", "v1.5", "Easy_Negative", "猫", "café"]
)
def test_a_token_is_found_beside_punctuation_and_in_any_case(parts, prompts, prompt, token):
    prompts.set_embeddings([embedding(token, row(parts, "red"))])
    expected = plain(parts, prompt.format(*[" red "] * 3))
    for spelling in (token, token.upper(), token.replace(" ", " \n ")):
        assert torch.equal(prompts.encode([prompt.format(*[spelling] * 3)]), expected)


@pytest.mark.parametrize(
    ("text", "token", "expected"),
    [
        ("a photo of SKS, dog", "sks", True),
        ("sksdog", "sks", False),
        ("dogsks", "sks", False),
        ("sks2", "sks", False),
        ("my_sks", "sks", False),
        ("bad-hands-50", "bad-hands-5", False),
        ("(bad-hands-5:1.2)", "bad-hands-5", True),
        ("a<cat-toy>s", "<cat-toy>", True),
        ("cat-toy", "<cat-toy>", False),
        ("my   style", "my style", True),
        ("my, style", "my style", False),
        ("v1x5", "v1.5", False),
        ("cafe\u0301", "café", True),
        ("cafe\u0301", "cafe", False),
        ("", "sks", False),
    ],
)
def test_whole_words_only(parts, prompts, text, token, expected):
    assert uses(text, token) is expected
    prompts.set_embeddings([embedding(token, random())])
    assert torch.equal(prompts.encode([text]), plain(parts, text)) is not expected


def test_several_vectors_are_several_words_in_order(parts, prompts):
    red, circle = row(parts, "red"), row(parts, "circle")
    prompts.set_embeddings([embedding("sks", torch.cat([red, circle])), embedding("tok", torch.cat([circle, red]))])
    assert torch.equal(prompts.encode(["a sks moving"]), plain(parts, "a red circle moving"))
    assert torch.equal(prompts.encode(["a tok moving"]), plain(parts, "a circle red moving"))
    assert torch.equal(prompts.encode(["sks tok"]), plain(parts, "red circle circle red"))
    assert not torch.equal(plain(parts, "a red circle moving"), plain(parts, "a circle red moving"))


def test_the_longer_of_two_tokens_is_taken(parts, prompts):
    learned = {"bad": "red", "bad-hands": "blue", "bad-hands-5": "green", "5": "star"}
    for order in (list(learned), list(reversed(learned))):
        prompts.set_embeddings([embedding(token, row(parts, learned[token])) for token in order])
        assert torch.equal(prompts.encode(["bad-hands-5, bad-hands bad"]), plain(parts, "green, blue red"))


def test_a_word_of_the_vocabulary_takes_its_learned_meaning(parts, prompts):
    prompts.set_embeddings([embedding("red", row(parts, "blue"))])
    assert torch.equal(prompts.encode(["a Red circle"]), plain(parts, "a blue circle"))
    prompts.set_embeddings(())
    assert torch.equal(prompts.encode(["a Red circle"]), plain(parts, "a red circle"))


def test_prompts_of_one_batch_do_not_mix(parts, prompts):
    prompts.set_embeddings([embedding("sks", random(2)), embedding("tok", random(1, seed=1))])
    texts = ["a sks circle", "", "tok", "a red star", "a tok, sks"]
    batch = prompts.encode(texts)
    assert batch.shape == (5, 77, WIDTH)
    for i, text in enumerate(texts):
        torch.testing.assert_close(batch[[i]], prompts.encode([text]))


def test_neither_encoder_nor_tokenizer_is_changed(parts):
    tokenizer, encoder = parts
    table, before = encoder.get_input_embeddings(), fingerprint(encoder)
    weight, vocabulary = table.weight, dict(tokenizer.get_vocab())
    prompts, text = PromptEncoder(tokenizer, encoder), ["a sks, red circle"]
    ordinary = prompts.encode(text)
    outputs = []
    for vectors in (random(3), random(2, seed=1), random(3)):
        prompts.set_embeddings([embedding("sks", vectors)])
        outputs.append(prompts.encode(text))
        assert fingerprint(encoder) == before
    prompts.set_embeddings(())
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(prompts.encode(text), ordinary)
    assert encoder.get_input_embeddings() is table
    assert table.weight is weight
    assert not table._forward_hooks
    assert fingerprint(encoder) == before
    assert tokenizer.get_vocab() == vocabulary


def test_a_failed_encoding_leaves_no_trace(parts, monkeypatch):
    prompts = PromptEncoder(*parts)
    prompts.set_embeddings([embedding("sks", random())])
    monkeypatch.setattr(parts[1].final_layer_norm, "forward", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prompts.encode(["sks"])
    assert not parts[1].get_input_embeddings()._forward_hooks


def test_other_weights_and_precisions_come_and_go(folder):
    parts = load_text_encoder(folder)
    tokenizer, encoder = parts
    prompts = PromptEncoder(tokenizer, encoder)
    prompts.set_embeddings([embedding("sks", random())])
    before, state = prompts.encode(["a sks"]), {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict({name: tensor * 1.5 for name, tensor in state.items()})
    assert not torch.equal(prompts.encode(["a sks"]), before)
    encoder.load_state_dict(state)
    assert torch.equal(prompts.encode(["a sks"]), before)
    encoder.to(torch.bfloat16)
    prompts.set_embeddings([embedding("sks", row(parts, "red").float())])
    assert torch.equal(prompts.encode(["a sks circle"]), plain(parts, "a red circle"))


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([embedding("sks", torch.ones(1, 768))], r"'sks' does not fit: its vectors are 768 wide \(Stable Diffusion 1"),
        ([embedding("sks", torch.ones(1, 1024))], r"1024 wide \(Stable Diffusion 2\).* takes 32 wide"),
        ([Embedding("sks", {"text_encoder_2": torch.ones(1, 1280)})], r"SDXL's second text encoder\) for the text_enc"),
        ([embedding("Sks", random()), embedding("tok", random()), embedding("sks", random())], "two embeddings .*ks'"),
        ([embedding("my style", random()), embedding("my  Style", random())], "two embeddings"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(parts, prompts, embeddings, message):
    prompts.set_embeddings([embedding("sks", row(parts, "red"))])
    with pytest.raises(UserError, match=message) as caught:
        prompts.set_embeddings(embeddings)
    assert "\n" not in str(caught.value)
    assert torch.equal(prompts.encode(["a sks"]), plain(parts, "a red"))


def test_sdxls_second_encoder_takes_its_own_vectors(parts):
    tokenizer = parts[0]
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    second = CLIPTextModelWithProjection(config).eval()
    prompts = PromptEncoder(tokenizer, second, part="text_encoder_2")
    prompts.set_embeddings(
        [Embedding("sks", {"text_encoder": random(), "text_encoder_2": row((tokenizer, second), "red")})]
    )
    assert torch.equal(prompts.encode(["a sks circle"]), plain((tokenizer, second), "a red circle"))


def test_what_is_cut_off_is_named_once_a_prompt(parts, prompts, caplog):
    prompts.set_embeddings([embedding("easyNegative", random(3))])
    fits = "red " * 72 + "easynegative"
    too_long = "red " * 73 + "easynegative blue circle easynegative"
    with caplog.at_level(logging.WARNING, logger="animatediff"):
        prompts.encode([fits, ""])
        assert not caplog.records
        for _ in range(2):
            cut = prompts.encode([too_long])
        prompts.encode(["circle " * 76])
    first, second = (record.getMessage() for record in caplog.records)
    assert "has 81 tokens, 75 are read; cut off: 'easyNegative blue circle easyNegative'" in first
    assert second.endswith("has 76 tokens, 75 are read; cut off: 'circle'")
    assert cut.shape == (1, 77, WIDTH)
    prompts.set_embeddings([embedding("ab", random(3)[:2])])
    assert torch.equal(prompts.encode(["red " * 73 + "ab"]), cut)


def test_what_is_cut_off_is_told_without_encoding(parts, prompts, caplog):
    assert prompts.cut_off("red " * 75) is None
    assert prompts.cut_off("") is None
    told = prompts.cut_off("red " * 75 + "blue\nstar")
    assert told.endswith("has 77 tokens, 75 are read; cut off: 'blue star'")
    assert "\n" not in told
    assert not caplog.records
    prompts.encode(["red " * 75 + "blue\nstar"])
    assert caplog.records[0].getMessage() == told


@pytest.mark.parametrize("with_learned_word", [False, True])
def test_clip_skip_is_diffusers_own(folder, parts, prompts, with_learned_word):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    # diffusers looks for the last norm where transformers 5 no longer has it.
    pipeline.text_encoder.__dict__.setdefault("text_model", pipeline.text_encoder)
    num_layers = parts[1].config.num_hidden_layers
    text = "a red circle moving left"
    if with_learned_word:
        prompts.set_embeddings([embedding("sks", row(parts, "red"))])
    ours = [
        prompts.encode([text.replace("red", "sks") if with_learned_word else text], skip) for skip in range(num_layers)
    ]
    for skip, encoded in enumerate(ours):
        theirs, _ = pipeline.encode_prompt(text, torch.device("cpu"), 1, False, clip_skip=skip or None)
        assert torch.equal(encoded, theirs)
    assert not torch.equal(ours[0], ours[1])
    with pytest.raises(UserError, match=f"clip_skip {num_layers} .* set at most {num_layers - 1}"):
        prompts.encode([text], num_layers)


def test_long_captions_do_not_fill_the_log(prompts, caplog):
    for i in range(120):
        prompts.encode([f"{i} " + "red " * 80])
    assert len(caplog.records) == 100
    assert caplog.records[-1].getMessage().endswith("(more such prompts are not named)")


def test_a_tokenizer_without_a_length_takes_the_encoders(folder, parts):
    tokenizer, encoder = load_text_encoder(folder)
    tokenizer.model_max_length = int(1e30)
    assert torch.equal(PromptEncoder(tokenizer, encoder).encode(["a red circle"]), plain(parts, "a red circle"))


@pytest.mark.parametrize("layout", ["diffusers", "a1111"])
@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_own_loader_agrees(tmp_path, folder, prompts, layout, count):
    vectors = random(count)
    if layout == "diffusers":
        path, token = tmp_path / "learned_embeds.safetensors", "<sks-x>"
        save_file({token: vectors[0] if count == 1 else vectors}, path)
    else:
        path, token = tmp_path / "bad-hands-5.pt", "bad-hands-5"
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": token}, path)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.load_textual_inversion(str(path))
    prompts.set_embeddings([embedding(token, vectors)])
    for text in ("a {} circle", "{}", "a red {}, moving left, {}", "a red circle", "red " * 74 + "{}"):
        prompt = text.replace("{}", token)
        theirs, _ = pipeline.encode_prompt(prompt, torch.device("cpu"), 1, False)
        assert torch.equal(prompts.encode([prompt]), theirs), prompt
