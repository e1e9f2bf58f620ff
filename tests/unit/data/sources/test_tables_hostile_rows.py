"""Rows that are wrong: each costs itself, says on which line and what is wrong, and its neighbours are read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data import quarantine_table
from animatediff.data.ingest.plan import Planner
from animatediff.data.quarantine import Reason
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from tests.unit.data.sources.test_reader import HEADER, read, touch

ROW, CAPTION, NONE, ID = Reason.BAD_ROW, Reason.BAD_CAPTION, Reason.NO_CAPTION, Reason.BAD_ID

# A line between good ones, and for each row that it gives its reason and words of its detail; None is a good row.
CSV_ROWS = [
    (b"\0end\0", [(ROW, "line 3 cannot be read: it is no text")]),
    (b"b.mp4,\0end\0", [(ROW, "control characters")]),
    (b"b.mp4,a\0c", [(ROW, "control characters")]),
    (b"b.mp4,a\0\0\0c\0", [(ROW, "control characters")]),
    (b"\xff\xfe", [(ROW, "line 3 cannot be read: it is not in UTF-8")]),
    (b"b.mp4,caf\xe9", [(ROW, "0xe9")]),
    (b'b.mp4,"a cat', [(ROW, "line 3 has a quote that stays open")]),
    (b'"b.mp4,a cat', [(ROW, "a quote that stays open")]),
    (b'"', [(ROW, "a quote that stays open")]),
    (b'b.mp4,"a cat\nb2.mp4,"a dog"', [(ROW, "line 3 has a quote"), None]),
    (b'b.mp4,"a cat\n"b2.mp4","a dog"', [(ROW, "line 3 has a quote"), None]),
    (b'b.mp4,"open\nb2.mp4,"open\nb3.mp4,x', [(ROW, "line 3 has"), (ROW, "line 4 has"), None]),
    (b'b.mp4,"a cat\r\nof two lines"', [None]),
    (b'b.mp4,"he said ""a\ncat"" twice"', [None]),
    (b'b.mp4,a "cat" and "dog', [None]),
    (b'b.mp4,"a" cat', [None]),
    (b"b.mp4,a\rb", [(ROW, "line 3 is no row: new-line character")]),
    (b"b.mp4," + b"x" * 9_000_000, [(ROW, "9000007 bytes, and 8000000 are allowed")]),
    (b"b.mp4," + b"x" * 1_000_001, [(CAPTION, "1000001 characters, 1000000 characters are allowed")]),
    (
        b'b.mp4,"' + b"x" * 7_000_000 + b"\n" + b"y" * 7_000_000,
        [(ROW, "line 3 has a quote"), (ROW, "its path has 7000000")],
    ),
    (b"b.mp4,a cat, a dog", [(ROW, "line 3 has 3 cells for 2 columns")]),
    (b"b.mp4", [(NONE, "line 3 has 1 cells for 2 columns")]),
    (b",a cat", [(ID, "column 'video' of line 3 is empty")]),
    (b"b/" * 5000 + b"b.mp4,a cat", [(ROW, "line 3 cannot be used: its path has 10005 characters")]),
    (b"http://[,a cat", [(ROW, "line 3 cannot be used: http://[ is no URL")]),
    (b"b.mp4,", [(NONE, "is empty")]),
    (b"a.mp4,twice", [(Reason.DUPLICATE_ID, "an earlier video")]),
    (b"../../b.mp4,up", [None]),
    (b"", []),
    (b"\r", []),
]


def planned(uri, **settings):
    """Captions of the videos that are planned, and reason and detail of the rows that are not, by line or id."""
    planner = Planner(None, dataset_key="key", videos_per_unit=3)
    videos = []
    for batch in read_source(SourceConfig(uri=str(uri), **settings)):
        planner.add(batch)
        videos += batch
    rejected = planner.finish().to_pylist()
    assert all("\n" not in row["detail"] and len(row["detail"]) <= 1000 for row in rejected)
    assert {row["reason"] for row in rejected} <= {reason.value for reason in Reason}
    return videos, [(Reason(row["reason"]), row["detail"]) for row in rejected], planner


def check(found, expected):
    """The bad rows between the good ones, in order."""
    videos, rejected, planner = found
    bad = [case for case in expected if case is not None]
    assert [reason for reason, _ in rejected] == [reason for reason, _ in bad]
    for (_, detail), (_, words) in zip(rejected, bad, strict=True):
        assert words in detail
    assert planner.num_videos == 3 + len(expected) - len(bad)
    assert [video.caption for video in (videos[0], *videos[-2:])] == ["dog", "hill", "sea"]


@pytest.mark.parametrize(("line", "expected"), CSV_ROWS, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_csv_row_costs_itself(tmp_path, line, expected, suffix):
    comma = b"," if suffix == "csv" else b"\t"
    line = line.replace(b",", comma)
    if suffix == "tsv" and any(case and "cells" in case[1] for case in expected) and b"," not in line:
        line = line.replace(b",", b"\t")
    lines = [b"video,caption", b"a.mp4,dog", None, b"y.mp4,hill", b"z.mp4,sea", b""]
    content = b"\n".join(line if part is None else part.replace(b",", comma) for part in lines)
    (tmp_path / f"t.{suffix}").write_bytes(content)
    check(planned(tmp_path / f"t.{suffix}"), expected)


JSON_ROWS = [
    (b'{"video": "b.mp4", "caption": ["x", "y"]}', [(CAPTION, "column 'caption' is a list of 2")]),
    (b'{"video": "b.mp4", "caption": {"en": "x"}}', [(CAPTION, "is a dict")]),
    (
        b'{"video": ["b.mp4", "c.mp4"], "caption": "x"}',
        [(ROW, "line 2 has a path or an id that cannot be read: it is a list")],
    ),
    (b'{"video": {"path": "b.mp4"}, "caption": "x"}', [(ROW, "it is a dict")]),
    (b'{"video": true, "caption": "x"}', [(ROW, "it is a bool")]),
    (b'{"video": "b.mp4", "video": "c.mp4", "caption": "x"}', [(ROW, "line 2 has the key 'video' twice")]),
    (b'{"video": "b.mp4", "caption": "x", "caption": "x"}', [(ROW, "has the key 'caption' twice")]),
    (b'{"video": "b.mp4", "caption": "x", "n": 1, "n": {"a": 1, "a": 2}}', [None]),
    (b'{"video": "b.mp4", "caption": 5}', [None]),
    (b'{"video": "b.mp4", "caption": 1e999}', [(NONE, "is empty")]),
    (b'{"video": "b.mp4", "caption": NaN}', [(NONE, "is empty")]),
    (b'{"video": "b.mp4", "caption": ' + b"9" * 5000 + b"}", [(ROW, "is no JSON: Exceeds the limit")]),
    (b'{"video": "b.mp4", "caption": ' + b"9" * 4000 + b"}", [None]),
    (b'{"video": ' + b"[" * 100_000 + b"}", [(ROW, "is no JSON")]),
    (b'{"video": "b\\u0000.mp4", "caption": "x"}', [(ROW, "line 2 cannot be used: its path holds a NUL")]),
    (b'{"video": "b.mp4", "caption": "\\ud83d"}', [None]),
    (b'{"video": "b.mp4", "caption": null}', [(NONE, "is empty")]),
    (b'{"video": "b.mp4"', [(ROW, "line 2 is no JSON")]),
    (b"[1, 2]", [(ROW, "line 2 is no JSON object")]),
    (b"\0end\0", [(ROW, "line 2 cannot be read")]),
    (b"caf\xe9", [(ROW, "0xe9")]),
    (b'{"video": "' + b"b" * 9000 + b'", "caption": "x"}', [(ROW, "its path has 9000 characters")]),
    (b'{"video": "b.mp4", "caption": "' + b"x" * 9_000_000 + b'"}', [(ROW, "and 8000000 are allowed")]),
    (
        b'{"video": "simplecache::http://h/b.mp4", "caption": "x"}',
        [(Reason.FETCH_REFUSED, "line 2: simplecache::http")],
    ),
]


@pytest.mark.parametrize(("line", "expected"), JSON_ROWS, ids=lambda value: repr(value)[:40])
def test_a_jsonl_row_costs_itself(tmp_path, line, expected):
    good = [
        json.dumps({"video": f"{name}.mp4", "caption": text}).encode()
        for name, text in zip("ayz", ("dog", "hill", "sea"), strict=True)
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join([good[0], line, *good[1:]]))
    check(planned(tmp_path / "t.jsonl"), expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (b"https://h/b.mp4,p", (ROW, "line 3 cannot be used: p/https://h/b.mp4.mp4 is a URL")),
        (b"b,s3://bucket/p", (ROW, "is a URL, and a relative path is needed")),
        (b"simplecache::http://h/b,p", (ROW, "is a URL")),
        (b"b,file:///etc", (ROW, "is a URL")),
        (b"b\0,p", (ROW, "control characters")),
        (b"b" * 9000 + b",p", (ROW, "has 9006 characters")),
        (b",p", (ID, "is empty")),
        (b"../../b,p", (ID, "leads out of the videos' folder")),
        (b'"b,p', (ROW, "a quote that stays open")),
        (b"b,p,q,r,s,t", (ROW, "6 cells for 3 columns")),
    ],
)
@pytest.mark.parametrize("place", ["first", "later"])
def test_a_webvid_row_costs_itself(tmp_path, row, expected, place):
    touch(tmp_path / "videos" / "p" / "y.mp4")
    row = row.replace(b",p", b",p,a cat", 1) if b",p,q" not in row else row
    row = row if row.endswith(b"a cat") or b"p,q" in row else row + b",a cat"
    good = [b"a,p,dog"] if place == "later" else []
    (tmp_path / "t.csv").write_bytes(b"\n".join([b"videoid,page_dir,name", *good, row, b"y,p,hill", b"z,p,sea", b""]))
    videos, rejected, planner = planned(tmp_path / "t.csv")
    assert planner.num_videos == 2 + len(good)
    assert [reason for reason, _ in rejected] == [expected[0]]
    assert expected[1].replace("line 3", f"line {2 + len(good)}") in rejected[0][1]
    assert videos[-1].uri == f"{tmp_path}/videos/p/z.mp4"


def test_a_webvid_table_without_a_row_that_can_be_used_says_why(tmp_path):
    (tmp_path / "t.csv").write_text(HEADER + "https://h/b.mp4,u,d,p,x\ns3://b/c,u,d,p,y\n")
    assert [reason for reason, _ in planned(tmp_path / "t.csv")[1]] == [ROW, ROW]


def test_parquet_cells_cost_their_rows(tmp_path):
    table = pa.table(
        {
            "id": ["a", "b" * 9000, "c\0", None, "e", "f"],
            "video": [b"x"] * 6,
            "caption": ["dog", "cat", "hill", "sea", "x" * 1_000_001, "sky"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    _, rejected, planner = planned(tmp_path / "t.parquet")
    assert [reason for reason, _ in rejected] == [ROW, ROW, ID, CAPTION]
    assert planner.num_videos == 2
    assert len(quarantine_table.examples(quarantine_table.SCHEMA.empty_table())) == 0


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62, 5], pa.timestamp("us")),  # of which Python has no date
        pa.array([b"\xff\xfe", b"dog"]),
        pa.array([[1, 2], [3]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([True, False]),
        pa.array([[("k", "v")], []], pa.map_(pa.string(), pa.string())),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["video", "caption", "id"])
def test_a_parquet_column_of_another_type_is_no_traceback(tmp_path, column, role):
    columns = {"id": ["a", "b"], "path": ["a.mp4", "b.mp4"], "caption": ["dog", "cat"]}
    columns[{"video": "path"}.get(role, role)] = column
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    videos, rejected, planner = planned(tmp_path / "t.parquet")
    assert len(videos) == 2
    assert len(rejected) + planner.num_videos == 2
    assert rejected


def test_two_columns_of_one_name_are_told(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 3, ["video", "caption", "caption"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="several columns 'caption'"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32"])
def test_a_damaged_line_of_wide_text_costs_itself(tmp_path, codec):
    lines = ["video,caption\n", "a.mp4,dog\n", "b.mp4,cat\n", "y.mp4,hill\n", "z.mp4,sea\n"]
    encoded = [
        line.encode(codec if not number else codec.removesuffix("-le") + "-le") for number, line in enumerate(lines)
    ]
    encoded[2] = encoded[2].replace(
        "cat".encode(codec.removesuffix("-le") + "-le"), b"\0\xdc\0\xdc" * len(codec) if "16" in codec else b"\xff" * 12
    )
    (tmp_path / "t.csv").write_bytes(b"".join(encoded))
    check(planned(tmp_path / "t.csv"), [(ROW, f"line 3 cannot be read: it is not in {codec.upper()}")])
