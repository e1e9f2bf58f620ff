"""Configs in a base's folder that no model can be built of, or that ask for everything: each one line, and no memory.

Every row changes one file of the shipped base, and says what the line must name: the file's part, the field, its value.
"""

import json
import math
import os
import re
import resource
import shutil
from pathlib import Path

import pytest

from animatediff.errors import UserError
from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.checks.models import ModelChecks
from animatediff.sprites.shipped import BASE, MOTION_MODULE
from animatediff.weights.base import load_text_encoder, load_tokenizer, load_unet, load_vae

# name of the row: (part, fields, what the line says)
CONFIGS = {
    "no heads": ("unet", {"attention_head_dim": 0}, r"unet .*attention_head_dim is 0,"),
    "no groups": ("unet", {"norm_num_groups": 0}, r"unet .*norm_num_groups is 0,"),
    "a dtype": ("unet", {"dtype": "float16"}, r"unet .*dtype is 'float16'"),
    "layers without end": ("unet", {"layers_per_block": 10_000_000}, r"layers_per_block is 10000000,"),
    "blocks without end": (
        "unet",
        {"transformer_layers_per_block": [10**9] * 3},
        r"transformer_layers_per_block is \[",
    ),
    "negative channels": ("unet", {"block_out_channels": [-32, 64, 96]}, r"block_out_channels is \[-32, 64, 96\]"),
    "no channels": ("unet", {"block_out_channels": []}, r"block_out_channels is \[\]"),
    "text for channels": ("unet", {"block_out_channels": "32"}, r"block_out_channels is '32'"),
    "truth for channels": ("unet", {"in_channels": True}, r"in_channels is True"),
    "infinite channels": ("unet", {"block_out_channels": [math.inf, 3, 3]}, r"block_out_channels is \[inf, 3, 3\]"),
    "half a channel": ("unet", {"out_channels": 4.5}, r"out_channels is 4.5"),
    "more than the file holds": ("unet", {"block_out_channels": [6400] * 3}, r"asks for more than .* bytes.*6,?400"),
    "fewer blocks": ("unet", {"block_out_channels": [64, 64]}, r"unet .*block_out_channels.*\[64, 64\]"),
    "blocks of no kind": ("unet", {"down_block_types": ["A", "B", "C"]}, r"down_block_types is \['A', 'B', 'C'\]"),
    "blocks that are a number": ("unet", {"up_block_types": 3}, r"up_block_types is 3"),
    "no activation": ("unet", {"act_fn": "nope"}, r"act_fn is 'nope'"),
    "an activation of five": ("unet", {"act_fn": 5}, r"act_fn is 5"),
    "a dropout of text": ("unet", {"dropout": "x"}, r"dropout is 'x'"),
    "an eps of nothing": ("unet", {"norm_eps": None}, r"norm_eps is None"),
    "an object for a width": ("unet", {"cross_attention_dim": {"a": 2}}, r"unet .*cross_attention_dim is \{'a': 2\}"),
    "a factor of NaN": ("vae", {"scaling_factor": math.nan}, r"vae .*scaling_factor is nan"),
    "no factor": ("vae", {"scaling_factor": 0}, r"scaling_factor is 0"),
    "a factor of text": ("vae", {"scaling_factor": "0.18"}, r"scaling_factor is '0.18'"),
    "a huge number": ("vae", {"scaling_factor": 10**40}, r"scaling_factor is 1000000"),
    "latents of nothing": ("vae", {"latent_channels": -1}, r"latent_channels is -1"),
    "no blocks": ("vae", {"down_block_types": None}, r"down_block_types is None"),
    "text layers without end": ("text_encoder", {"num_hidden_layers": 10**9}, r"num_hidden_layers is 1000000000"),
    "words without end": ("text_encoder", {"vocab_size": 10**12}, r"vocab_size is 1000000000000"),
    "more words than the file": (
        "text_encoder",
        {"vocab_size": 4_000_000},
        r"asks for more than .*vocab_size, 4,000,000",
    ),
    "no width": ("text_encoder", {"hidden_size": 0}, r"hidden_size is 0"),
    "heads that do not divide": ("text_encoder", {"num_attention_heads": 7}, r"num_attention_heads is 7"),
    "places of text": ("text_encoder", {"max_position_embeddings": "77"}, r"max_position_embeddings is '77'"),
}

TEXTS = {
    "deep lists": ("unet/config.json", "[" * 100_000, "unet of base .* is not valid JSON"),
    "deep objects": ("vae/config.json", '{"a":' * 5_000, "vae of base .* is not valid JSON"),
    "empty": ("unet/config.json", "", "unet of base .* is not valid JSON"),
    "a list": ("text_encoder/config.json", "[1]", "text_encoder of base .* holds a list"),
    "a number of 5,000 digits": ("vae/config.json", '{"a": ' + "9" * 5_000 + "}", "vae of base .* is not valid JSON"),
    "megabytes": ("unet/config.json", '{"a": "' + "x" * 2_000_000 + '"}', "unet of base .* more than 1,048,576 bytes"),
    "shards elsewhere": (
        "unet/diffusion_pytorch_model.safetensors.index.json",
        '{"weight_map": {"a": "../x"}}',
        "no index",
    ),
    "shards that are gone": (
        "unet/diffusion_pytorch_model.safetensors.index.json",
        '{"weight_map": {"a": "b.safetensors"}}',
        "weight_map names 'b.safetensors', which is no file beside it",
    ),
    "shards that are numbers": (
        "vae/diffusion_pytorch_model.safetensors.index.json",
        '{"weight_map": [1]}',
        "no index",
    ),
}

LOADERS = {"unet": load_unet, "vae": load_vae, "text_encoder": load_text_encoder, "tokenizer": load_tokenizer}


def copy_of_base(folder):
    """The weights linked; what is changed is written anew."""
    shutil.copytree(BASE, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    return folder


def problem_of(base):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    problem = ModelChecks({}).model(ModelFiles(base=str(base), motion_module=str(MOTION_MODULE)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    return problem


def assert_one_line(line, expected):
    assert line is not None
    assert re.search(expected, line), line
    assert "\n" not in line
    assert len(line) < 600


def test_the_base_itself_has_no_problem(tmp_path):
    assert problem_of(copy_of_base(tmp_path / "base")) is None


@pytest.mark.parametrize("row", CONFIGS)
def test_a_config_that_cannot_be_built_is_one_line_in_the_plan_and_at_loading(row, tmp_path):
    part, fields, expected = CONFIGS[row]
    base = copy_of_base(tmp_path / "base")
    file = base / part / "config.json"
    config = json.loads(file.read_text()) | fields
    file.unlink()
    file.write_text(json.dumps(config))
    assert_one_line(problem_of(base), expected)
    with pytest.raises(UserError) as caught:
        LOADERS[part](str(base))
    assert_one_line(str(caught.value), expected)


@pytest.mark.parametrize("row", TEXTS)
def test_a_text_that_is_no_config_is_one_line(row, tmp_path):
    name, text, expected = TEXTS[row]
    base = copy_of_base(tmp_path / "base")
    if ".index." in name:
        next((base / name).parent.glob("*.safetensors")).unlink()
    (base / name).unlink(missing_ok=True)
    (base / name).write_text(text)
    assert_one_line(problem_of(base), expected)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "unet/x.safetensors"]
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_what_would_be_waited_for_is_not_opened(name, make, tmp_path):
    base = copy_of_base(tmp_path / "base")
    (base / name).unlink(missing_ok=True)
    make(base / name)
    assert_one_line(problem_of(base), "no regular file")


TOKENIZERS = {
    "no JSON": ("vocab.json", b"{"),
    "a list": ("vocab.json", b"[1, 2]"),
    "words for numbers": ("vocab.json", b'{"a": "b"}'),
    "huge numbers": ("vocab.json", b'{"a</w>": 4294967296000}'),
    "gigabytes": ("vocab.json", None),
    "bytes": ("merges.txt", b"\xff\xfe\x00" * 99),
    "merges of what is not there": ("merges.txt", b"#version\nq z\nz q\n" * 9),
    "a class of its own": ("tokenizer_config.json", b'{"tokenizer_class": 7, "added_tokens_decoder": {"x": 1}}'),
    "deep": ("tokenizer_config.json", b"[" * 100_000),
    "a length that is a list": ("tokenizer_config.json", b'{"model_max_length": [77]}'),
    "a length of less than nothing": ("tokenizer_config.json", b'{"model_max_length": -5}'),
    "half a tokenizer": ("tokenizer.json", b'{"version": "1.0"'),
    "a tokenizer of nothing": (
        "tokenizer.json",
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": [["x", "y"]]}}',
    ),
    "a tokenizer of gigabytes": ("tokenizer.json", None),
}


@pytest.mark.parametrize("row", TOKENIZERS)
def test_a_tokenizer_that_is_damaged_is_one_line(row, tmp_path):
    name, content = TOKENIZERS[row]
    base = copy_of_base(tmp_path / "base")
    (base / "tokenizer" / name).unlink(missing_ok=True)
    with (base / "tokenizer" / name).open("wb") as file:
        file.write(content or b"")
        file.truncate(4 << 30) if content is None else None
    try:
        load_tokenizer(str(base))
    except UserError as error:
        assert_one_line(str(error), "tokenizer")
