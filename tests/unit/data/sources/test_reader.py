import gzip
import json

import pytest

from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import Columns, SourceConfig, SourceVideo
from animatediff.errors import UserError

HEADER = "videoid,contentUrl,duration,page_dir,name\n"


def read(uri, **settings):
    return [video for batch in read_source(SourceConfig(uri=str(uri), **settings)) for video in batch]


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["000001_000050/7.mp4", "7.mp4"])
def test_webvid_layouts(tmp_path, layout):
    touch(tmp_path / "videos" / layout)
    csv = tmp_path / "results.csv"
    csv.write_text(HEADER + '7,u,PT00H00M03S,000001_000050,"A  dog,\n running"\n')
    expected = SourceVideo("7", str(tmp_path / "videos" / layout), "A dog, running")
    assert read(csv) == [expected]
    assert read(csv, format="webvid", videos_uri=str(tmp_path / "videos")) == [expected]


def test_a_few_dead_links_do_not_hide_the_layout(tmp_path):
    touch(tmp_path / "videos" / "p" / "3.mp4")
    csv = tmp_path / "results.csv"
    csv.write_text(HEADER + "".join(f"{i},u,d,p,caption\n" for i in range(1, 4)))
    assert [v.uri for v in read(csv)] == [str(tmp_path / "videos" / "p" / f"{i}.mp4") for i in range(1, 4)]


def test_a_table_of_any_columns_names_its_videos_in_any_way(tmp_path):
    rows = ["clips/a.mp4,one", "/data/b.mp4,two", "s3://bucket/c.mp4,three", "https://u:p@h/d.mp4?v=1&token=t,four"]
    (tmp_path / "t.csv").write_text("File_Name, Text\n" + "\n".join([*rows, "../e.mp4,five", ",six", "g.mp4"]))
    videos = read(tmp_path / "t.csv")
    assert [video.uri for video in videos] == [
        f"{tmp_path}/clips/a.mp4",
        "/data/b.mp4",
        "s3://bucket/c.mp4",
        "https://u:p@h/d.mp4?v=1&token=t",
        f"{tmp_path}/../e.mp4",
        f"{tmp_path}/t.csv#line=7",
        f"{tmp_path}/g.mp4",
    ]
    assert [video.caption for video in videos] == ["one", "two", "three", "four", "five", "six", ""]
    ids = [video.video_id for video in videos]
    assert ids[:4] == ["clips/a.mp4", "data/b.mp4", "bucket/c.mp4", "h/d.mp4?v=1"]
    assert len(ids[4]) == 32
    assert ids[5:] == ["", "g.mp4"]
    assert read(tmp_path / "t.csv", videos_uri="s3://b/v/")[0].uri == "s3://b/v/clips/a.mp4"


def test_named_columns_and_tsv(tmp_path):
    (tmp_path / "t.tsv").write_text('nr\tclip\tpath\twords\n1\ta.mp4\tno.mp4\t"a\nstar"\n2\tb.mp4\tno.mp4\ta hill\n')
    columns = Columns(id="nr", video="clip", caption="words")
    assert read(tmp_path / "t.tsv", columns=columns) == [
        SourceVideo("1", f"{tmp_path}/a.mp4", "a star"),
        SourceVideo("2", f"{tmp_path}/b.mp4", "a hill"),
    ]
    (tmp_path / "odd.txt").write_bytes((tmp_path / "t.tsv").read_bytes())
    assert len(read(tmp_path / "odd.txt", format="tsv", columns=columns)) == 2


def test_odd_csv_files(tmp_path):
    touch(tmp_path / "videos" / "1.mp4")
    (tmp_path / "a.CSV").write_bytes(b"\xef\xbb\xbfvideoid,name\r\n1,dog\r\n\r\n2\r\n")
    assert [(v.video_id, v.caption) for v in read(tmp_path / "a.CSV")] == [("1", "dog"), ("2", "")]
    long = "word " * 150_000
    (tmp_path / "long.csv.gz").write_bytes(gzip.compress(f"video,caption\na.mp4,{long}\n".encode()))
    assert read(tmp_path / "long.csv.gz")[0].caption == long.strip()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("vid\xe9o,caption\na.mp4,dog\n", "t.csv is no CSV in UTF-8: its first line cannot be read: .*0xe9"),
        ('video,"caption\na.mp4,dog\nb.mp4,hill\n', "its first line has a quote that stays open"),
        ("video,caption\n", "t.csv lists no videos"),
        ("", "t.csv has no column that is known to hold the video; it has no columns"),
        ("video,words\na.mp4,dog\n", "hold the caption; it has video, words: set source.columns.caption"),
        ("id,caption\n1,dog\n", "t.csv has no column that is known to hold the video; it has id, caption: set"),
        (HEADER + "1,u,d,p,dog\n", "p/1.mp4 nor .*1.mp4 exists.*videos_uri"),
    ],
)
def test_a_csv_that_cannot_be_used_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "t.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "t.csv")


def test_a_missing_column_names_the_setting(tmp_path):
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,dog\n")
    for role in ("id", "video", "caption"):
        with pytest.raises(UserError, match=rf"no column 'nr'; it has video, caption: set source.columns.{role}"):
            read(tmp_path / "t.csv", columns=Columns(**{role: "nr"}))
    with pytest.raises(UserError, match="no column 'videoid'"):
        read(tmp_path / "t.csv", format="webvid")


def test_jsonl_lines_without_an_object_do_not_stop_the_others(tmp_path):
    rows = [{"path": "a.mp4"}, {"path": "b.mp4", "prompt": " two\ud83d", "extra": [1]}, {"path": None, "prompt": "x"}]
    lines = [json.dumps(row).encode() for row in rows]
    bad = [b'{"path": "c.mp4", "prom', b'["d.mp4"]', b'{"path": "\xff"}', b"[" * 100_000, b"NaN"]
    (tmp_path / "t.ndjson").write_bytes(
        b"\xef\xbb\xbf" + b"\n".join([*lines, b"", *bad, b'{"path":"e.mp4","prompt":5}'])
    )
    videos = read(tmp_path / "t.ndjson")
    uri = f"{tmp_path}/t.ndjson"
    assert videos[:2] == [
        SourceVideo("a.mp4", f"{tmp_path}/a.mp4", ""),
        SourceVideo("b.mp4", f"{tmp_path}/b.mp4", "two?"),
    ]
    assert videos[2:-1] == [SourceVideo("", f"{uri}#line=3", "x")] + [
        SourceVideo("", f"{uri}#line={line}", "") for line in range(5, 10)
    ]
    assert videos[-1] == SourceVideo("e.mp4", f"{tmp_path}/e.mp4", "5")
    with pytest.raises(UserError, match=r"no column 'id'.*it has path, prompt, extra: set source.columns.id"):
        read(tmp_path / "t.ndjson", columns=Columns(id="id"))


def test_several_tables_are_read_in_order_and_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.reader.BATCH_VIDEOS", 100)
    for part in ("00", "01", "02"):
        lines = [json.dumps({"id": f"{part}-{i}", "video": f"{i}.mp4", "text": "t"}) for i in range(80)]
        (tmp_path / f"t-{part}.jsonl").write_text("\n".join(lines))
    batches = list(read_source(SourceConfig(uri=f"{tmp_path}/t-*.jsonl")))
    assert [len(batch) for batch in batches] == [100, 100, 40]
    assert [batch[0].video_id for batch in batches] == ["00-0", "01-20", "02-40"]
    assert len(read(f"{tmp_path}/t-{{00..01}}.jsonl")) == 160
    assert len(read(f"{tmp_path}/t-{{00,02}}.jsonl")) == 160
    with pytest.raises(UserError, match=r"no file .*t-03.jsonl"):
        read(f"{tmp_path}/t-{{00..03}}.jsonl")
    with pytest.raises(UserError, match=r"no file matches .*u-\*"):
        read(f"{tmp_path}/u-*.jsonl")


def test_a_table_is_read_as_it_is_asked_for(tmp_path):
    """The end would fail: it is not touched before it is wanted."""
    good = b"".join(b'%d.mp4,"a dog %d"\n' % (i, i * i) for i in range(200_000))
    packed = gzip.compress(b"video,caption\n" + good, 1)
    (tmp_path / "t.csv.gz").write_bytes(packed[:-100])
    batches = read_source(SourceConfig(uri=f"{tmp_path}/t.csv.gz"))
    assert len(next(batches)) == 10_000
    with pytest.raises(UserError, match="t.csv.gz: Compressed file ended"):
        list(batches)


def test_a_name_with_the_characters_of_patterns_is_a_name(tmp_path):
    (tmp_path / "t [1] {2..3}.csv").write_text("video,caption\na#1.mp4,dog\n")
    assert read(tmp_path / "t [1] {2..3}.csv") == [SourceVideo("a#1.mp4", f"{tmp_path}/a#1.mp4", "dog")]


def test_errors_name_the_thing_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match="no videos.*absent"):
        read(tmp_path / "absent")
    with pytest.raises(UserError, match="no file .*absent.csv"):
        read(tmp_path / "absent.csv")
    (tmp_path / "t.csv").write_text("video,caption\na.mp4,dog\n")
    with pytest.raises(UserError, match="source.columns.bytes means nothing to a source of the format csv"):
        read(tmp_path / "t.csv", columns=Columns(bytes="video"))
    (tmp_path / "t.csv.gz").write_bytes((tmp_path / "t.csv").read_bytes())
    with pytest.raises(UserError, match="cannot use .*t.csv.gz: Not a gzipped file"):
        read(tmp_path / "t.csv.gz")
    with pytest.raises(UserError) as refused:
        read("http://me:secret@127.0.0.1:9/t.csv?token=secret")
    assert "http://127.0.0.1:9/t.csv" in str(refused.value)
    assert "secret" not in str(refused.value)
