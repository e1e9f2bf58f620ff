"""Opening weights files: whatever they are called and wrapped in, the tensors come out, and nothing is run."""

import collections
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from animatediff.errors import UserError
from animatediff.weights.reading.tensors import open_tensors, save_tensors

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt", "m"])
def test_safetensors_under_any_name(tmp_path, name):
    save_file(TENSORS, tmp_path / name, {"title": "x"})
    file = open_tensors(str(tmp_path / name))
    assert same(file.tensors, TENSORS)
    assert file.metadata == {"title": "x"}


@pytest.mark.parametrize("name", ["m.ckpt", "m.pt", "m.safetensors", "m"])
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [dict, lambda t: {"state_dict": t, "epoch": 3, "optimizer": {"x": torch.ones(9)}}])
def test_pickles_under_any_name_and_wrapped(tmp_path, name, is_zip, wrap):
    torch.save(wrap(TENSORS), tmp_path / name, _use_new_zipfile_serialization=is_zip)
    assert same(open_tensors(str(tmp_path / name)).tensors, TENSORS)


def test_the_prefix_of_a_distributed_trainer_goes(tmp_path):
    save_file({f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "m.safetensors")
    assert same(open_tensors(str(tmp_path / "m.safetensors")).tensors, TENSORS)
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    save_file(mixed, tmp_path / "mixed.safetensors")
    assert same(open_tensors(str(tmp_path / "mixed.safetensors")).tensors, mixed)


def test_nested_dicts_and_plain_values(tmp_path):
    content = {"string_to_param": {"*": torch.ones(2, 3)}, "name": "x", "step": 7, "list": [1], "sub": {"deep": 1.5}}
    torch.save(content, tmp_path / "m.pt")
    file = open_tensors(str(tmp_path / "m.pt"))
    assert same(file.tensors, {"string_to_param.*": torch.ones(2, 3)})
    assert file.values == {"name": "x", "step": 7, "sub.deep": 1.5}


def test_a_parameter_dict_and_parameters(tmp_path):
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 3))})
    torch.save({"string_to_param": parameters}, tmp_path / "m.pt")
    (tensor,) = open_tensors(str(tmp_path / "m.pt")).tensors.values()
    assert torch.equal(tensor, torch.ones(2, 3))
    assert not tensor.requires_grad


def test_what_lightning_left_is_passed_over(tmp_path, monkeypatch):
    """The class that Stable Diffusion's own files name: it is not here when they are read, and nothing of it runs."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    checkpoint = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = checkpoint
    import numpy as np

    content = collections.OrderedDict(state_dict=TENSORS, callbacks={checkpoint: {"best": np.float64(1)}})
    torch.save(content, tmp_path / "m.ckpt")
    monkeypatch.undo()
    assert same(open_tensors(str(tmp_path / "m.ckpt")).tensors, TENSORS)


@settings(max_examples=60)
@given(
    st.sampled_from([640, 896, 1152, 1408, 0x2020, 0x3C20, 0x7B20, 0x0A20]) | st.integers(30, 2000).map(lambda n: 8 * n)
)
def test_a_header_of_any_length_is_a_header(tmp_path_factory, length):
    """The length comes first in the file: as bytes it may read like the mark of a pickle or of a web page."""
    path = tmp_path_factory.mktemp("f") / "m.safetensors"
    shortest = int.from_bytes(save(TENSORS, {"x": ""})[:8], "little")
    path.write_bytes(save(TENSORS, {"x": "." * (length - shortest)}) if length >= shortest else save(TENSORS))
    if length >= shortest:
        assert int.from_bytes(path.read_bytes()[:8], "little") == length
    assert same(open_tensors(str(path)).tensors, TENSORS)


@pytest.mark.parametrize("name", ["m.safetensors", "m.ckpt"])
def test_opening_reads_nothing(tmp_path, name):
    """64 MiB are opened, and the process grows by far less: the tensors are the mapped file."""
    tensors = {str(i): torch.zeros(1 << 20) for i in range(16)}
    save_file(tensors, tmp_path / name) if name.endswith("s") else torch.save(tensors, tmp_path / name)
    del tensors

    def anonymous():
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

    before = anonymous()
    file = open_tensors(str(tmp_path / name))
    total = sum(float(tensor.sum()) for tensor in file.tensors.values())
    assert total == 0
    assert anonymous() - before < 24


def test_no_file_and_a_folder(tmp_path):
    for path, expected in ((tmp_path / "gone.pt", "there is no file"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=expected):
            open_tensors(str(path))


@settings(max_examples=200)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"{", b"\x10" + b"\0" * 7])
)
def test_no_bytes_give_anything_but_one_line(tmp_path_factory, content, head):
    path = tmp_path_factory.mktemp("f") / "m.bin"
    path.write_bytes(head + content)
    with pytest.raises(UserError) as caught:
        open_tensors(str(path))
    assert "\n" not in str(caught.value)
    path.unlink()


def refused(path, match, within_s=10):
    start = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        open_tensors(str(path))
    assert time.monotonic() - start < within_s
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_dicts_that_hold_themselves_do_not_take_for_ever(tmp_path):
    """300 references to itself, at five levels: 300^5 visits. Empty ones yield nothing by themselves."""
    loop = {"w": torch.ones(2)}
    loop |= {f"k{i}": loop for i in range(300)}
    for i in range(300):
        loop[f"k{i}"] = loop
    nested = {}
    for _ in range(4):
        nested = {f"k{i}": nested for i in range(300)}
    for name, content in (("loop", loop), ("nested", {"w": torch.ones(2)} | nested)):
        torch.save(content, tmp_path / f"{name}.pt")
        refused(tmp_path / f"{name}.pt", "holds more than 100000 entries")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_cannot_ask_for_memory(tmp_path, is_zip):
    class Bomb:
        def __reduce__(self):
            return bytearray, (1 << 36,)

    torch.save({"a": torch.ones(2), "x": Bomb()}, tmp_path / "m.pt", _use_new_zipfile_serialization=is_zip)
    refused(tmp_path / "m.pt", "makes a bytearray")


def test_names_without_end_and_numbers_of_four_bits(tmp_path):
    save_file({"mid_block" * 20_000: torch.ones(1)}, tmp_path / "name.safetensors")
    refused(tmp_path / "name.safetensors", "180000 characters long")
    header = b'{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]}}'
    (tmp_path / "f4.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    refused(tmp_path / "f4.safetensors", "float4|not a whole safetensors")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "m.safetensors")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(tmp_path / "m.safetensors", "cannot read .*m.safetensors: Permission denied")


@pytest.mark.parametrize("wrap", [lambda t: {"model": t}, lambda t: {"model": {"state_dict": t}, "step": 3}])
def test_trainers_own_wrappings(tmp_path, wrap):
    torch.save(wrap(TENSORS), tmp_path / "m.pt")
    assert same(open_tensors(str(tmp_path / "m.pt")).tensors, TENSORS)


def test_threads_open_pickles_side_by_side(tmp_path):
    """torch's list of allowed names is the process's: one thread must not take it from another."""
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.ones(2, 3))})
    torch.save({"string_to_param": parameters}, tmp_path / "m.pt")
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(open_tensors, [str(tmp_path / "m.pt")] * 100))
    assert all(file.tensors.keys() == {"string_to_param.*"} for file in files)


def test_written_files_are_whole_and_equal(tmp_path):
    shared = torch.arange(6.0)
    tensors = {"a": shared, "b": shared, "c": shared[2:4], "d": shared.reshape(2, 3).T}
    for name in ("one", "two"):
        save_tensors(str(tmp_path / f"{name}.safetensors"), {k: t for k, t in tensors.items() if k != "c"}, {"x": "y"})
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    file = open_tensors(str(tmp_path / "one.safetensors"))
    assert same(file.tensors, {k: t for k, t in tensors.items() if k != "c"})
    assert file.metadata == {"x": "y"}
