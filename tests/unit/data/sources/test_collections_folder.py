import json
import os

import pytest

from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.spec import Columns
from animatediff.errors import UserError
from tests.unit.data.sources.test_reader import read, touch


def test_folder_with_sidecars(tmp_path):
    for name in ("b.mp4", "sub/a.WEBM", "notes.pdf", "lonely.mov", "._b.mp4", "x [1].mp4", "c#1.mp4"):
        touch(tmp_path / name)
    (tmp_path / "b.txt").write_text(" a  red\nstar ")
    (tmp_path / "sub" / "a.txt").write_bytes(b"\xef\xbb\xbfa hill ")
    (tmp_path / "x [1].txt").write_text("in brackets")
    (tmp_path / "c#1.json").write_text(json.dumps({"Prompt": "a &amp; b", "title": "no"}))
    assert [(v.video_id, v.caption) for v in read(tmp_path)] == [
        ("b.mp4", "a red star"),
        ("c#1.mp4", "a & b"),
        ("lonely.mov", ""),
        ("sub/a.WEBM", "a hill"),
        ("x [1].mp4", "in brackets"),
    ]
    assert {fetch(v.uri, max_bytes=10) for v in read(tmp_path)} == {b"x"}


def test_json_sidecars_by_key(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / "a.json").write_text(json.dumps({"long": "from json", "caption": "other"}))
    (tmp_path / "a.txt").write_text("from text")
    assert read(tmp_path)[0].caption == "from text"
    assert read(tmp_path, columns=Columns(caption="long"))[0].caption == "from json"
    for broken in ('{"long": ["a", "b"]}', '{"lo', "[1]", "{}"):
        (tmp_path / "a.json").write_text(broken)
        assert read(tmp_path, columns=Columns(caption="long"))[0].caption == ""


def test_a_file_name_that_is_no_unicode_does_not_stop_the_others(tmp_path):
    touch(tmp_path / "a.mp4")
    (tmp_path / os.fsdecode(b"b\xff.mp4")).write_bytes(b"x")
    assert [v.video_id for v in read(tmp_path)] == ["a.mp4", ""]
    for video in read(tmp_path):
        video.uri.encode()


def test_what_a_folder_holds_must_be_plain(tmp_path):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "a.tar")
    with pytest.raises(UserError, match="holds files of the formats folder and webdataset: set source.format"):
        read(tmp_path)
    assert [v.video_id for v in read(tmp_path, format="folder")] == ["a.mp4"]
    with pytest.raises(UserError, match="no parquet files .*in the folder"):
        read(tmp_path, format="parquet")
    with pytest.raises(UserError, match="source.videos_uri means nothing to a source of the format folder"):
        read(tmp_path, format="folder", videos_uri="/x")
