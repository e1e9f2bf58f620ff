"""One crafted file costs its own entry: the plan of all others is made, in the time and the memory of any plan."""

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile

import fsspec
import pytest
import torch
from safetensors.torch import save

from animatediff.errors import UserError
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.checks.catalog import check
from animatediff.sprites.shipped import BASE, CHALK_LORA, MOTION_MODULE

KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def pt(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zipped(records, **how):
    """An archive as torch's, of a pickle or of any records."""
    buffer = io.BytesIO()
    records = (
        records
        if isinstance(records, list)
        else [("a/data.pkl", records), ("a/version", b"3"), ("a/byteorder", b"little")]
    )
    with zipfile.ZipFile(buffer, "w", **how) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return buffer.getvalue()


def changed(data, old, new, *, last=False):
    place = data.rfind(old) if last else data.find(old)
    assert place >= 0
    return data[:place] + new + data[place + len(old) :]


def header(tree, body=b""):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(shape, size, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def encoded(times):
    """A pickle of a text that is encoded so many times, which doubles it."""
    hexed = b"c_codecs\nencode\n" + text(b"x" * 1000) + text(b"latin1") + b"\x86R"
    for _ in range(times):
        hexed = b"c_codecs\nencode\n" + hexed + text(b"hex") + b"\x86R"
    return b"\x80\x02}" + text(b"a") + hexed + b"s."


def encoded_names(name):
    """A pickle of a tensor, made of numbers alone, under a name that no text can have."""
    return b"\x80\x02}" + text(name) + b"ctorch\nTensor\n](G" + b"\0" * 8 + b"G" + b"\0" * 8 + b"e\x85Rs."


def doubled(times):
    """A pickle whose dict has a key of tuples in tuples, each twice: hashing it takes 2^times steps."""
    return b"\x80\x02})" + b"q\x01h\x01\x86" * times + b"K\x01s."


LORA = {f"{KEY}.lora_down.weight": torch.ones(2, 64), f"{KEY}.lora_up.weight": torch.ones(64, 2)}
WHOLE = pt(LORA)
TABLE = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
END, DIRECTORY = b"PK\x05\x06", b"PK\x01\x02"
BIG = b"\x8a\x08" + (2**40).to_bytes(8, "little")

# name of the row: (field, suffix, bytes)
FILES = {
    # Zips that are damaged or lie.
    "a directory cut short": ("checkpoint", ".ckpt", WHOLE[:-30]),
    "a directory that is none": ("checkpoint", ".ckpt", changed(WHOLE, DIRECTORY, b"PK\x09\x09")),
    "a directory elsewhere": ("loras", ".pt", changed(WHOLE, END, b"PK\x05\x07", last=True)),
    "several disks": (
        *("checkpoint", ".ckpt"),
        zipped(b"N.")[:-22] + b"PK\x06\x07" + struct.pack("<IQI", 1, 2**40, 9) + zipped(b"N.")[-22:],
    ),
    "a directory of negative place": (
        "embeddings",
        ".bin",
        zipped(b"N.")[:-6] + struct.pack("<I", 2**32 - 1) + b"\0\0",
    ),
    "a record that is encrypted": (
        *("checkpoint", ".ckpt"),
        changed(zipped(b"N."), DIRECTORY + b"\x14\x03\x14\x00\x00\x00", DIRECTORY + b"\x14\x03\x14\x00\x01\x00"),
    ),
    "a wrong checksum": ("loras", ".ckpt", changed(zipped(b"\x80\x02}."), b"\x80\x02}.", b"\x80\x02)}")),
    "a name twice": ("loras", ".ckpt", zipped([("a/data.pkl", b"\x80\x02}."), ("a/data.pkl", encoded(30))])),
    "packed records": ("checkpoint", ".ckpt", zipped(b"\0" * (8 << 20), compression=zipfile.ZIP_DEFLATED)),
    "packed by a codec of none": ("checkpoint", ".ckpt", zipped(b"N." * 99, compression=zipfile.ZIP_LZMA)),
    "a zip in a zip": ("checkpoint", ".ckpt", zipped([("a/inner.zip", zipped(b"N."))])),
    # Pickles that ask for time and memory.
    "a key that is hashed for years": ("embeddings", ".pt", zipped(doubled(60))),
    "the same in an old file": ("loras", ".pt", pickle.dumps(0x1950A86A20F9469CFC6C, 2) + doubled(60)),
    "a text doubled thirty times": ("checkpoint", ".ckpt", zipped(encoded(30))),
    "a terabyte of bytes": ("loras", ".pt", zipped(b"\x80\x02c__builtin__\nbytearray\n" + BIG + b"\x85R.")),
    "a terabyte of tensor": (
        "loras",
        ".pt",
        zipped(b"\x80\x02}" + text(b"a") + b"ctorch\nTensor\n" + BIG + b"\x85Rs."),
    ),
    "names that begin with megabytes": ("checkpoint", ".ckpt", pt({"x" * 9_000_000: {str(i): 1 for i in range(9000)}})),
    "a number of a million digits": (
        "embeddings",
        ".pt",
        pt({"name": 1 << 4_000_000, "emb_params": torch.ones(1, 768)}),
    ),
    "a key of a million digits": ("embeddings", ".pt", pt({1 << 4_000_000: torch.ones(1, 768)})),
    "lists in lists": ("checkpoint", ".ckpt", zipped(b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".")),
    "names of half a character": ("loras", ".pt", zipped(encoded_names(b"\xed\xa0\x80.lora_down.weight"))),
    "a word of half a character": ("embeddings", ".pt", zipped(encoded_names(b"\xed\xa0\x80"))),
    "names of a terminal": ("checkpoint", ".ckpt", pt({"\x1b[2J\r\n" * 9: torch.ones(2, 2)})),
    # Headers that lie.
    "a header of no shapes": ("loras", ".safetensors", header({f"{KEY}.alpha": {"dtype": "F32"}})),
    "a header of lists": ("loras", ".safetensors", header([1, 2])),
    "a header without end": ("checkpoint", ".safetensors", header(b'{"a":' * 90_000)),
    "an empty tensor of a trillion rows": ("motion_loras", ".safetensors", header({"a": tensor([1 << 40, 0], 0)})),
    "a table of no columns": ("motion_module", ".safetensors", header({TABLE: tensor([1, 1 << 35, 0], 0)})),
    "a shape that overflows": ("embeddings", ".safetensors", header({"emb_params": tensor([1 << 62, 1 << 62], 16)})),
    "metadata that are deep": (
        "loras",
        ".safetensors",
        header({"__metadata__": {"a": "[" * 99_999}, "b": tensor([1], 4)}, b"1234"),
    ),
    # Right in form, and absurd.
    "a rank of nothing": (
        "loras",
        ".safetensors",
        save({k: v[:0] if "down" in k else v[:, :0] for k, v in LORA.items()}),
    ),
    "an alpha of NaN": ("loras", ".safetensors", save(LORA | {f"{KEY}.alpha": torch.tensor(float("nan"))})),
    "an infinite alpha": ("loras", ".safetensors", save(LORA | {f"{KEY}.alpha": torch.tensor(float("inf"))})),
    "an alpha of many": ("loras", ".safetensors", save(LORA | {f"{KEY}.alpha": torch.ones(99, 99)})),
    "a scalar as an embedding": ("embeddings", ".safetensors", save({"emb_params": torch.tensor(1.0)})),
    "a place without end": (
        *("motion_module", ".safetensors"),
        save(
            {f"down_blocks.{i}.motion_modules.{i}.temporal_transformer.norm.weight": torch.ones(1) for i in range(99)}
        ),
    ),
}


REMOTE = {
    "an alpha of terabytes": {
        f"{KEY}.alpha": tensor([1 << 40], 1 << 42),
        f"{KEY}.lora_down.weight": tensor([2, 64], 512),
    },
    "a vector of terabytes": {"emb_params": tensor([1 << 30, 768], 3 << 40)},
    "a negative shape": {f"{KEY}.lora_down.weight": tensor([-2, 64], 512)},
    "a shape of text": {f"{KEY}.lora_down.weight": tensor("ab", 512)},
    "no entries": {"a": 1},
}
FIELDS = ("checkpoint", "vae", "loras", "motion_loras", "embeddings", "motion_module")
PIPES = {f"a pipe as {field}": field for field in FIELDS}
DEVICES = {f"a device as {field}": field for field in FIELDS}
CIRCLE = "links in circles"
ROWS = [*FILES, *REMOTE, *PIPES, *DEVICES, CIRCLE]
HARMLESS = ("a rank of nothing",)  # it changes nothing, and a warning tells


def crafted(row, folder):
    """A row's field and file."""
    path = folder / f"{ROWS.index(row)}.safetensors"
    if row in FILES:
        field, suffix, data = FILES[row]
        path.with_suffix(suffix).write_bytes(data)
        return field, str(path.with_suffix(suffix))
    if row in REMOTE:
        fsspec.filesystem("memory").pipe_file(f"/{path.name}", header(REMOTE[row], b"x" * 512))
        return "loras", f"memory://{path.name}"
    if row in PIPES:
        os.mkfifo(path)
        return PIPES[row], str(path)
    if row in DEVICES:
        path.symlink_to("/dev/zero")
        return DEVICES[row], str(path)
    for part in ("unet", "vae"):
        (path / part).mkdir(parents=True)
        (path / part / "loop").symlink_to(path)
        (path / part / "diffusion_pytorch_model.safetensors").symlink_to("diffusion_pytorch_model.safetensors")
    return "checkpoint", str(path)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    """One of all rows, each an entry, and last a good one."""
    folder = tmp_path_factory.mktemp("crafted")
    entries = [{"name": "good", "prompts": ["a red circle"], "loras": [str(CHALK_LORA)]}]
    for number, row in reversed(list(enumerate(ROWS))):
        field, uri = crafted(row, folder)
        value = [{"path": uri}] if field.endswith("s") else uri
        entries.insert(0, {"name": f"crafted-{number}", "prompts": ["a red circle"], field: value})
    shared = {"base": str(BASE), "motion_module": str(MOTION_MODULE), "width": 64, "height": 64}
    return Catalog.model_validate(shared | {"entries": entries})


@pytest.fixture(scope="module")
def problems(catalog):
    """What the plan tells of them, in the time and the memory of any plan."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = check(catalog)
    plan = expand(catalog, problems=found)
    assert [item.entry for item in plan.items if item.digest not in plan.invalid][-1] == "good"
    assert time.process_time() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900_000  # KiB
    return found


@pytest.fixture(scope="module")
def animator():
    return Animator(str(BASE), str(MOTION_MODULE), schedule=None, device="cpu")


def assert_one_line(line):
    assert "\n" not in line
    assert len(line) < 1000
    assert line.encode()
    assert "\x1b" not in line


def test_the_good_entry_has_no_problem(catalog, problems):
    assert len(catalog.entries) - 1 not in problems


@pytest.mark.parametrize("row", ROWS)
def test_a_crafted_file_costs_its_own_entry(row, catalog, problems, animator):
    """The plan tells of it in a line, or the worker does, which then goes on."""
    if ROWS.index(row) in problems:
        assert_one_line(problems[ROWS.index(row)])
        return
    spoiled, good = (catalog.model_files(catalog.entries[index]) for index in (ROWS.index(row), -1))
    if row not in HARMLESS:
        with pytest.raises(UserError) as caught:
            animator.load(spoiled)
        assert_one_line(str(caught.value))
    animator.load(good)
