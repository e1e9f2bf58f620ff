import errno
import os
import time
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


@pytest.mark.parametrize("root", ["local", "memory://bucket"])
def test_a_large_file_appears_whole_or_not_at_all(root, tmp_path):
    folder = storage.join(str(tmp_path) if root == "local" else f"{root}/{tmp_path.name}", "deep")
    uri = storage.join(folder, "file.bin")
    with storage.write_file(uri) as path:
        path.write_bytes(b"one")
        assert not storage.exists(uri)
    assert storage.read_bytes(uri) == b"one"

    def fail_half_way(path):
        path.write_bytes(b"tw")
        raise RuntimeError

    with pytest.raises(RuntimeError), storage.write_file(uri) as path:
        fail_half_way(path)
    assert storage.read_bytes(uri) == b"one"
    assert not path.exists()
    assert storage.find_files(folder) == ["file.bin"]


def test_a_full_disk_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot use .*file: .*No space left"), storage.write_file(f"{tmp_path}/file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    with storage.write_file(str(tmp_path / "large")) as path:
        path.unlink()
        path.touch(mode=0o600)
    storage.write_bytes(str(tmp_path / "small"), b"")
    assert len({(tmp_path / name).stat().st_mode for name in ("usual", "large", "small")}) == 1


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


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_staged_is_there_whole_or_not_at_all(tmp_path, is_folder):
    target = tmp_path / "out" / ("model" if is_folder else "model.bin")

    def write(draft):
        path = Path(draft)
        if is_folder:
            path.mkdir()
        (path / "a" if is_folder else path).write_bytes(b"x")
        assert not target.exists()

    def fail_midway():
        with storage.staged(str(target)) as draft:
            write(draft)
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert list(target.parent.iterdir()) == []
    with storage.staged(str(target)) as draft:
        write(draft)
    assert (target / "a" if is_folder else target).read_bytes() == b"x"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_protocol_that_fails_at_once_is_one_line():
    with pytest.raises(UserError, match="cannot open ftp://"):
        storage.exists("ftp://127.0.0.1:9/x.safetensors")


def test_what_a_killed_writer_left_is_deleted_and_nothing_else(tmp_path):
    draft, other = f"{7:032x}", f"{8:032x}"
    names = (f"parts/.a.parquet.{draft}.tmp", "parts/a.parquet", ".hidden", "my.tmp", ".of-an-editor.tmp")
    for name in names:
        storage.write_bytes(str(tmp_path / name), b"x")
    storage.write_bytes(str(tmp_path / f"inputs/.{other}.tmp/model/a.bin"), b"x")
    storage.delete_drafts(str(tmp_path), older_than_s=60)
    assert (tmp_path / names[0]).exists()
    assert (tmp_path / f"inputs/.{other}.tmp/model/a.bin").exists()
    os.utime(tmp_path / names[0], (time.time() - 120,) * 2)
    storage.delete_drafts(str(tmp_path), older_than_s=60)
    assert not (tmp_path / names[0]).exists()
    storage.delete_drafts(str(tmp_path))
    assert sorted(storage.find_files(str(tmp_path))) == [".hidden", ".of-an-editor.tmp", "my.tmp", "parts/a.parquet"]
    assert list((tmp_path / "inputs").iterdir()) == []
    storage.delete_drafts("memory://bucket")


@pytest.mark.parametrize("root", ["local", "memory://bucket"])
def test_many_files_are_deleted_at_once(root, tmp_path):
    folder = str(tmp_path) if root == "local" else f"{root}/{tmp_path.name}"
    for name in "abc":
        storage.write_bytes(storage.join(folder, name), b"x")
    storage.delete_many([])
    storage.delete_many([storage.join(folder, name) for name in "ab"])
    assert storage.list_files(folder) == ["c"]
