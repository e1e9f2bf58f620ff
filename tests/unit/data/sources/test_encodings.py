"""Captions and tables in the encodings that users have: read right, or set aside; never rubbish."""

import json

import pytest

from animatediff.data.quarantine import Reason
from animatediff.data.sources.encodings import decode
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from tests.unit.data.sources.test_collections_tars import write_tar
from tests.unit.data.sources.test_reader import read, touch

FRENCH = "a cat\u2019s toy \u2013 caf\u00e9"
JAPANESE = "\u732b\u304c\u8d70\u308b"
CHINESE = "\u4e00\u53ea\u732b\u5728\u8dd1"
KOREAN = "\uace0\uc591\uc774\uac00"

# Text, how it is stored, what the source says, and whether it can be read.
CASES = [
    (FRENCH, "utf-8", None, True),
    (FRENCH, "utf-8-sig", None, True),
    (FRENCH, "utf-16", None, True),
    (FRENCH, "utf-32", None, True),
    (FRENCH, "utf-16-le", None, True),
    (FRENCH, "utf-16-be", None, True),
    (FRENCH, "utf-32-be", None, True),
    ("a cat", "utf-16-le", None, True),
    (JAPANESE, "utf-16-le", None, False),
    (FRENCH, "cp1252", None, False),
    (JAPANESE, "cp932", None, False),
    (JAPANESE, "euc_jp", None, False),
    (JAPANESE, "iso2022_jp", None, False),
    (CHINESE, "gbk", None, False),
    (KOREAN, "euc_kr", None, False),
    (FRENCH, "cp1252", "cp1252", True),
    (JAPANESE, "cp932", "cp932", True),
    (JAPANESE, "euc_jp", "euc_jp", True),
    (JAPANESE, "iso2022_jp", "iso2022_jp", True),
    (CHINESE, "gbk", "gbk", True),
    (KOREAN, "euc_kr", "euc_kr", True),
    (JAPANESE, "utf-16-le", "utf-16-le", True),
    # Some files of a collection are in UTF-8 all the same.
    (FRENCH, "utf-8", "cp1252", True),
    (JAPANESE, "utf-8", "cp932", True),
    (JAPANESE, "utf-16", "cp932", True),
    # Not every text fits the setting, and what reads as both is not certain.
    (CHINESE, "gbk", "ascii", False),
    ("a cat!", "utf-8", "utf-16-le", False),
]


@pytest.mark.parametrize(("text", "stored", "setting", "readable"), CASES)
@pytest.mark.parametrize("kind", ["folder.txt", "folder.json", "tar.txt"])
def test_a_sidecar_is_read_right_or_set_aside(tmp_path, text, stored, setting, readable, kind):
    where, suffix = kind.split(".")
    content = (text if suffix == "txt" else f'{{"caption": "{text}"}}').encode(stored)
    members = {"a.mp4": b"x", f"a.{suffix}": content}
    if where == "tar":
        write_tar(tmp_path / "a.tar", members.items())
    else:
        for name, data in members.items():
            touch(tmp_path / name, data)
    (video,) = read(tmp_path, encoding=setting)
    if readable:
        assert (video.caption, video.fault) == (text, None)
    elif suffix == "txt" or video.fault:  # the JSON's brackets make some texts certain
        assert (video.caption, video.fault.reason) == ("", Reason.BAD_CAPTION)
        assert f"a.{suffix}" in video.fault.detail
        assert "save it as UTF-8" in video.fault.detail or "source.encoding" in video.fault.detail
    else:
        assert video.caption == text


@pytest.mark.parametrize(("text", "stored", "setting", "readable"), CASES)
def test_a_line_of_a_csv_is_read_right_or_set_aside(tmp_path, text, stored, setting, readable):
    (tmp_path / "t.csv").write_bytes(f"video,caption\r\na.mp4,{text}\r\nb.mp4,a hill\r\n".encode(stored))
    if readable or (stored, setting) == ("utf-16-le", None):  # what is ASCII in the table makes UTF-16 certain
        assert [video.caption for video in read(tmp_path / "t.csv", encoding=setting)] == [text, "a hill"]
    elif setting == "utf-16-le":  # of which the header is no text
        with pytest.raises(UserError, match=r"t\.csv"):
            read(tmp_path / "t.csv", encoding=setting)
    else:
        bad, good = read(tmp_path / "t.csv", encoding=setting)
        assert (bad.uri, bad.fault.reason, good.caption) == (f"{tmp_path}/t.csv#line=2", Reason.BAD_ROW, "a hill")
        assert "line 2 cannot be read" in bad.fault.detail
        assert "save it as UTF-8" in bad.fault.detail or "source.encoding" in bad.fault.detail


def test_a_line_of_a_jsonl_in_another_encoding_does_not_stop_the_others(tmp_path):
    lines = [json.dumps({"video": "a.mp4", "caption": text}, ensure_ascii=False) for text in (FRENCH, "a hill", FRENCH)]
    content = [line.encode(codec) for line, codec in zip(lines, ("utf-8", "utf-8", "cp1252"), strict=True)]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(content))
    *good, bad = read(tmp_path / "t.jsonl")
    assert [video.caption for video in good] == [FRENCH, "a hill"]
    assert (bad.video_id, bad.uri, bad.fault.reason) == ("", f"{tmp_path}/t.jsonl#line=3", Reason.BAD_ROW)
    assert "source.encoding" in bad.fault.detail
    assert read(tmp_path / "t.jsonl", encoding="cp1252")[2].caption == FRENCH


def test_what_is_damaged_is_no_text():
    for content in (b"\xff\xfea\0b", b"\xef\xbb\xbfa hill \xff", b"a\0\0b\0"):
        with pytest.raises(ValueError, match="UTF"):
            decode(content)
    assert decode(b"a hill\0\0") == "a hill"


def test_an_encoding_that_python_does_not_know_is_refused():
    for name in ("klingon", "hex"):
        with pytest.raises(ValueError, match=f"no text encoding '{name}'"):
            SourceConfig(uri="x", encoding=name)
