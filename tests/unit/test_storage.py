from pathlib import Path

import pytest

from animatediff import storage
from animatediff.errors import UserError


def test_write_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch):
    uri = str(tmp_path / "deep" / "file")
    storage.write_bytes(uri, b"old")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "file"]


def test_lists_skip_unfinished_files(tmp_path):
    for name in ("b", "a", ".c.123.tmp", "sub/d"):
        storage.write_bytes(str(tmp_path / name), b"x")
    assert storage.list_files(str(tmp_path)) == ["a", "b"]
    assert storage.list_files(str(tmp_path / "absent")) == []
    assert storage.find_files(str(tmp_path)) == [".c.123.tmp", "a", "b", "sub/d"]
    storage.delete(str(tmp_path / "a"))
    storage.delete(str(tmp_path / "a"))
    assert not storage.exists(str(tmp_path / "a"))


def test_uris_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs/x") == str(tmp_path / "runs" / "x")
    assert storage.absolute("s3://bucket/x") == "s3://bucket/x"
    assert storage.join("s3://bucket/x", "a", "b") == "s3://bucket/x/a/b"
    assert storage.is_local("x")
    with pytest.raises(UserError, match="cannot open nope://x"):
        storage.exists("nope://x")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(str(tmp_path / "absent"))
