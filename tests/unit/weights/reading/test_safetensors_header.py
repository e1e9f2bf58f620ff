"""Whole safetensors files of careless programs are read; what is missing or overlaps is refused."""

import json
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from animatediff.errors import UserError
from animatediff.weights.identify.weights_file import identify
from animatediff.weights.reading.tensors import open_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.ones(4, dtype=torch.bfloat16),
    "c": torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn),
    "d": torch.zeros(0, 3, dtype=torch.float16),
}


def parts(metadata=None):
    """Header and body of a file as it should be."""
    data = save(TENSORS, metadata)
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def with_metadata(metadata):
    header, body = parts()
    return joined({"__metadata__": metadata} | header, body)


def twice(first, second):
    """A header with two entries of one name."""
    header, body = parts()
    rest = json.dumps(header)[1:]
    return joined(f'{{"__metadata__": {first}, "__metadata__": {second}, {rest}'.encode(), body)


def padded(header_end=b"", end=b""):
    header, body = parts()
    return joined(json.dumps(header).encode() + header_end, body + end)


CARELESS = {
    "a number": (with_metadata({"epoch": 3, "title": "x"}), {"epoch": "3", "title": "x"}),
    "a fraction": (with_metadata({"lr": 1e-4}), {"lr": "0.0001"}),
    "a truth value": (with_metadata({"v_pred": True}), {"v_pred": "true"}),
    "null": (with_metadata({"title": None, "author": "me"}), {"author": "me"}),
    "a dict": (with_metadata({"config": {"dim": [4, 8]}}), {"config": '{"dim": [4, 8]}'}),
    "a list": (with_metadata({"tags": ["a", "ü"]}), {"tags": '["a", "ü"]'}),
    "no object": (with_metadata(["x"]), {}),
    "a text in place of an object": (with_metadata("x"), {}),
    "two of them": (twice('{"a": "1"}', '{"a": "2"}'), {"a": "2"}),
    "zeros behind the header": (padded(header_end=b"\0" * 8), {}),
    "padding at the end": (padded(end=b"\0" * 100), {}),
    "unaligned": (padded(header_end=b" " * (-len(json.dumps(parts()[0])) % 8 + 1), end=b"\0"), {}),
}


@pytest.mark.parametrize("name", CARELESS)
def test_what_is_whole_is_read(tmp_path, name):
    content, metadata = CARELESS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    file = open_tensors(str(path))
    assert file.tensors.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert file.tensors[key].dtype == tensor.dtype
        assert file.tensors[key].shape == tensor.shape
        assert torch.equal(file.tensors[key].float(), tensor.float())
    assert file.metadata == metadata
    identify(file)


@pytest.mark.parametrize("name", ["a number", "null", "a dict", "padding at the end"])
def test_the_official_reader_refuses_these(tmp_path, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(CARELESS[name][0])
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass


def changed(**places):
    """A careless file whose tensors lie elsewhere than they say."""
    header, body = parts()
    for name, place in places.items():
        header[name] |= place
    return joined({"__metadata__": {"epoch": 3}} | header, body)


@pytest.mark.parametrize(
    "content",
    [
        with_metadata({"epoch": 3})[:-1],  # cut off
        changed(b={"data_offsets": [0, 8]}),  # two in one place
        changed(b={"shape": [5]}),
        changed(b={"shape": [-4]}),
        changed(b={"shape": [2**40, 2**40]}),
        changed(b={"shape": "4"}),
        changed(b={"dtype": ["F32"]}),
        changed(b={"data_offsets": [24, 32.0]}),
        changed(b={"data_offsets": None}),
        joined(b'{"__metadata__": ' + b"[" * 100_000, b""),
        joined(b'{"a": 1}', b""),
        joined(b"{}x", b"\0" * 8),
    ],
)
def test_what_is_not_whole_is_one_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        open_tensors(str(path))
    assert "is not a whole safetensors file" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "U16"])
def test_numbers_that_are_not_read_are_named(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(changed(b={"dtype": kind}))
    with pytest.raises(UserError, match=f"b is of {kind} numbers: quantised weights are not read, take the float file"):
        open_tensors(str(path))
