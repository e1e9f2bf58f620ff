"""A source never shrinks in silence: what is not taken is counted, and what cannot be used says why."""

import io
import json
import os
import tarfile
import unicodedata

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data import quarantine_table
from animatediff.data.decoding.videos import probe
from animatediff.data.ingest import provenance
from animatediff.data.ingest.plan import Planner
from animatediff.data.quarantine import Reason
from animatediff.data.sources.collections.not_taken import NonVideoFileCounts, describe_counts
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import Columns, SourceConfig
from animatediff.data.sources.uris import id_from
from animatediff.errors import UserError
from tests.unit.data.sources.test_collections_tars import write_tar
from tests.unit.data.sources.test_reader import read, touch

NFC, NFD = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def read_all(uri, **settings):
    """The videos' ids and captions, and what is not taken."""
    not_taken = NonVideoFileCounts()
    videos = [v for batch in read_source(SourceConfig(uri=str(uri), **settings), not_taken) for v in batch]
    return {video.video_id: video.caption for video in videos}, dict(not_taken)


def encode(container, codec, pixels="yuv420p"):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, pixels
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((144, 176, 3), 20 * i, np.uint8))
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("suffix", "container", "codec"),
    [
        ("gif", "gif", "gif"),
        ("mpg", "mpeg", "mpeg1video"),
        ("VOB", "vob", "mpeg2video"),
        ("ts", "mpegts", "libx264"),
        ("m2ts", "mpegts", "mpeg2video"),
        ("mts", "mpegts", "libx264"),
        ("wmv", "asf", "wmv2"),
        ("asf", "asf", "msmpeg4v3"),
        ("flv", "flv", "flv"),
        ("f4v", "f4v", "libx264"),
        ("3gp", "3gp", "mpeg4"),
        ("3g2", "3g2", "mpeg4"),
        ("divx", "avi", "mpeg4"),
        ("mxf", "mxf", "mpeg2video"),
        ("ogv", "ogg", None),
    ],
)
def test_kinds_of_video_files_are_taken(tmp_path, suffix, container, codec):
    data = encode(container, codec, "rgb8" if codec == "gif" else "yuv420p") if codec else b"Theora has no encoder here"
    touch(tmp_path / "folder" / f"a.{suffix}", data)
    touch(tmp_path / "folder" / "a.txt", b"a hill")
    write_tar(tmp_path / "a.tar", [(f"a.{suffix}", data), ("a.txt", b"a hill")])
    (in_folder,), (in_tar,) = read(tmp_path / "folder"), read(tmp_path / "a.tar")
    for video in (in_folder, in_tar):
        assert (video.caption, video.fault) == ("a hill", None)
        assert fetch(video.uri, max_bytes=10**7) == data
    if codec:
        assert len(probe(data).pts) == 8


@pytest.mark.parametrize(
    ("video", "sidecar"),
    [
        ("A.MP4", "A.TXT"),
        ("a.mp4", "a.Json"),
        ("IMG_1.MOV", "img_1.txt"),
        (f"{NFD}.mp4", f"{NFC}.txt"),
        (f"{NFC}.mp4", f"{NFD}.JSON"),
        (f"sub {NFC}/{NFD}.mp4", f"sub {NFC}/{NFC}.txt"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_captions_are_found_by_names_that_look_alike(tmp_path, video, sidecar, kind):
    content = json.dumps({"caption": "a hill"}).encode() if sidecar.lower().endswith("json") else b"a hill"
    members = [(video, b"x"), (sidecar, content), ("other.mp4", b"x")]
    if kind == "tar":
        write_tar(tmp_path / "a.tar", members)
    else:
        for name, data in members:
            touch(tmp_path / name, data)
    found, not_taken = read_all(tmp_path)
    assert sorted(found.values()) == ["", "a hill"]
    assert not not_taken


def test_a_caption_is_not_shared_with_a_video_of_a_similar_name(tmp_path):
    for name in ("a.mp4", "A.mp4", "b.mp4", "b.mov"):
        touch(tmp_path / name)
    for name in ("a.txt", "b.txt"):
        touch(tmp_path / name, b"of " + name.encode())
    assert read_all(tmp_path)[0] == {"A.mp4": "", "a.mp4": "of a.txt", "b.mov": "of b.txt", "b.mp4": "of b.txt"}


@pytest.mark.parametrize(("written", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_a_tables_path_finds_the_file_whose_accents_are_composed_otherwise(tmp_path, written, on_disk):
    touch(tmp_path / NFC / on_disk / f"{on_disk}.mp4", b"found")
    (tmp_path / NFC / "t.csv").write_text(f"video,caption\n{written}/{written}.mp4,a hill\n")
    (video,) = read(tmp_path / NFC / "t.csv")
    assert fetch(video.uri, max_bytes=10) == b"found"


def test_files_of_a_folder_that_are_no_videos_are_counted(tmp_path):
    for name in (
        "a.mp4",
        "a.nfo",
        "b.NFO",
        "c.mp4.part",
        "notes",
        ".hidden.mp4",
        "x.zip",
        "a.txt",
        "a.json",
        "lost.txt",
    ):
        touch(tmp_path / name)
    found, not_taken = read_all(tmp_path)
    assert found == {"a.mp4": "x"}
    assert not_taken == {".nfo": 2, ".part": 1, "without a suffix": 1, "hidden": 1, ".zip": 1, ".txt": 1}
    assert describe_counts(NonVideoFileCounts(not_taken)).startswith("2 .nfo, 1 .part, 1 .txt, 1 .zip")


def test_a_still_webp_or_animated_one_is_counted_by_name(tmp_path):
    for name in ("a.mp4", "a.webp", "b.avif"):
        touch(tmp_path / name)
    assert read_all(tmp_path)[1] == {".webp": 1, ".avif": 1}


def test_what_lies_beside_tars_and_tables_is_counted(tmp_path):
    write_tar(tmp_path / "tars" / "a.tar", [("a.mp4", b"x"), ("a.cls", b"1"), (".b.mp4", b"x"), ("inner.zip", b"x")])
    write_tar(tmp_path / "tars" / "empty.tar", [("a.jpg", b"x")])
    touch(tmp_path / "tars" / "preview.gif")
    found, not_taken = read_all(tmp_path / "tars")
    assert list(found) == ["a/a"]
    assert not_taken == {".gif": 1, ".cls": 1, "hidden": 1, ".zip": 1, ".jpg": 1, "tars without a video": 1}
    pq.write_table(pa.table({"video": ["a.mp4"], "caption": ["x"]}), tmp_path / "t.parquet")
    assert read_all(tmp_path, format="parquet")[1] == {".tar": 2, ".gif": 1}


def test_linked_folders_are_listed_once_and_without_end(tmp_path):
    touch(tmp_path / "source" / "real" / "a.mp4")
    touch(tmp_path / "elsewhere" / "deep" / "b.mp4")
    links = {
        "source/linked": "elsewhere",
        "source/a real one again": "source/real",
        "source/real/loop": "source",
        "source/above": "",
        "elsewhere/deep/back": "elsewhere",
        "source/self": "source/self",
        "source/broken.mp4": "nowhere.mp4",
        "source/file.mp4": "elsewhere/deep/b.mp4",
    }
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    found, not_taken = read_all(tmp_path / "source")
    assert list(found) == ["broken.mp4", "file.mp4", "linked/deep/b.mp4", "real/a.mp4"]
    assert not_taken == {"linked folders that are listed already": 4, "without a suffix": 1}
    write_tar(tmp_path / "elsewhere" / "t.tar", [("c.mp4", b"x")])
    for pattern, ids in {"*/t.tar": ["linked/t/c"], "**/t.tar": ["linked/t/c"]}.items():
        assert list(read_all(f"{tmp_path}/source/{pattern}")[0]) == ids


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch, caplog):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "locked" / "b.mp4")
    real = os.scandir

    def scandir(path):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert read_all(tmp_path) == ({"a.mp4": ""}, {"folders that cannot be read": 1})
    assert "locked/ cannot be read: Permission denied" in caplog.text
    with pytest.raises(UserError, match="Permission denied"):
        read(tmp_path / "locked")


def captioned(*stems, suffix=".mp4"):
    return [(stem + end, stem.encode()) for stem in stems for end in (suffix, ".txt")]


TRACKS = ("Track 2.0 (live)", "Track 2.1 (live)", "2021.03.04 beach", "2021.05.06 city", "plain")


@pytest.mark.parametrize(
    ("members", "found", "not_taken"),
    [
        (captioned(*TRACKS), {f"t/{stem}": stem for stem in TRACKS}, {}),
        ([(f"{stem}.mp4", b"x") for stem in TRACKS], {f"t/{stem}": "" for stem in TRACKS}, {}),
        (
            [*captioned("a"), ("a.depth.mp4", b"x"), ("a.b.mp4", b"x"), ("a.b.txt", b"of b")],
            {"t/a": "a", "t/a.b": "of b"},
            {".depth.mp4 beside a sample's video": 1},
        ),
        (
            [("a.depth.mp4", b"x"), ("a.rgb.mp4", b"x"), ("a.txt", b"one")],
            {"t/a": "one"},
            {".depth.mp4 beside a sample's video": 1},
        ),
        ([("a.video.mp4", b"x"), ("a.json", b'{"text": "one"}')], {"t/a": "one"}, {}),
        ([("a.gif", b"x"), *captioned("a"), ("a.mov", b"x")], {"t/a.gif": "a", "t/a": "a", "t/a.mov": "a"}, {}),
        ([*captioned("a"), *captioned("A")], {"t/a": "a", "t/A": "A"}, {}),
    ],
)
def test_names_with_dots_in_a_tar(tmp_path, members, found, not_taken):
    write_tar(tmp_path / "t.tar", members)
    assert read_all(tmp_path / "t.tar") == (found, not_taken)


def test_one_name_twice_in_a_tar_is_a_duplicate(tmp_path):
    write_tar(tmp_path / "t.tar", [("./a.mp4", b"old"), ("a.mp4", b"new"), ("a.txt", b"words")])
    assert [video.video_id for video in read(tmp_path / "t.tar")] == ["t/a", "t/a"]
    assert [row["reason"] for row in planned(tmp_path / "t.tar")[1]] == ["duplicate_id"]


def test_links_in_a_tar_are_what_they_lead_to(tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, kind, target in [
            ("x/a.mp4", tarfile.REGTYPE, ""),
            ("x/a.txt", tarfile.REGTYPE, ""),
            ("x/hard.mp4", tarfile.LNKTYPE, "x/a.mp4"),
            ("y/soft.mp4", tarfile.SYMTYPE, "../x/hard.mp4"),
            ("y/soft.txt", tarfile.SYMTYPE, "../x/a.txt"),
            ("y/lost.mp4", tarfile.SYMTYPE, "/elsewhere.mp4"),
            ("y/pipe.mp4", tarfile.FIFOTYPE, ""),
            ("y/pipe.nfo", tarfile.SYMTYPE, "a"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 7 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"content"))
    videos = {video.video_id: video for video in read(tmp_path / "t.tar")}
    assert sorted(videos) == ["t/x/a", "t/x/hard", "t/y/lost", "t/y/pipe", "t/y/soft"]
    assert {fetch(videos[f"t/{name}"].uri, max_bytes=9) for name in ("x/a", "x/hard", "y/soft")} == {b"content"}
    assert videos["t/y/soft"].caption == "content"
    assert videos["t/y/lost"].fault.reason is Reason.NOT_FOUND
    assert videos["t/y/pipe"].fault.reason is Reason.FETCH_REFUSED
    assert read_all(tmp_path / "t.tar")[1] == {".nfo": 1}


def test_tars_that_their_query_alone_tells_apart_have_ids_of_their_own(tmp_path):
    for name in ("a?1.tar", "a?2.tar"):
        write_tar(tmp_path / name, captioned("v"))
    assert list(read_all(tmp_path)[0]) == ["a?1/v", "a?2/v"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("https://h/get?key=1.mp4", "https://h/get?key=2.mp4"),
        ("https://h/get?policy=1&v=3", "https://h/get?policy=2&v=3"),
        ("https://h/get?token=abc", "https://h/get?token=abd"),
        ("https://h/v.mp4?key=1", "https://h/v.mp4?key=2"),
        ("https://h/play.php?access_key=1", "https://h/play.php?access_key=2"),
        ("s3://b/get?key=1&X-Amz-Signature=s", "s3://b/get?key=2&X-Amz-Signature=s"),
    ],
)
def test_urls_of_two_videos_have_two_ids(first, second):
    ids = {id_from(first), id_from(second)}
    assert len(ids) == 2
    for video_id in ids:
        assert not any(secret in video_id for secret in ("1.mp4", "2.mp4", "abc", "abd", "key=", "token="))


@pytest.mark.parametrize(
    ("uri", "video_id"),
    [
        (
            "https://b.s3.aws.com/k?X-Amz-Signature=1&X-Amz-Expires=9&X-Amz-Credential=c&X-Amz-Security-Token=t&v=1",
            "?v=1",
        ),
        ("https://b.s3.aws.com/k?AWSAccessKeyId=1&Signature=2&Expires=3", ""),
        ("https://b.s3.aws.com/k?Policy=1&Signature=2&Key-Pair-Id=3", ""),
        ("https://b.s3.aws.com/k?sig=1&v=1", "?v=1"),
        ("https://me:pass@b.s3.aws.com/k?v=1", "?v=1"),
    ],
)
def test_a_url_that_is_signed_again_keeps_its_id(uri, video_id):
    assert id_from(uri) == f"b.s3.aws.com/k{video_id}"
    assert id_from("https://h/d.mp4?v=1&token=t") == "h/d.mp4?v=1"


def planned(uri, **settings):
    planner = Planner(None, dataset_key="key", videos_per_unit=3)
    for batch in read_source(SourceConfig(uri=str(uri), **settings)):
        planner.add(batch)
    rejected = planner.finish()
    return planner, rejected.to_pylist(), quarantine_table.examples(rejected)


@pytest.mark.parametrize(
    ("caption", "reason", "detail"),
    [
        ('{"caption": ["a", "b"]}', "bad_caption", "a.json, caption is a list of 2, and one text is needed"),
        ('{"caption": {"en": "a"}}', "bad_caption", "is a dict"),
        ('{"caption": true}', "bad_caption", "is a bool"),
        ('{"caption": null}', "no_caption", "a.json, caption is empty"),
        ('{"caption": "', "bad_caption", "a.json: it is no JSON"),
        ('["a"]', "bad_caption", "a.json: it holds no JSON object"),
        (
            '{"words": "a"}',
            "bad_caption",
            "no key that is known to hold a caption but words: set source.columns.caption",
        ),
        (None, "no_caption", "there is no a.txt or a.json beside it"),
        ('{"caption": ["a"]}', None, "a"),
        ('{"caption": 5}', None, "5"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_video_without_a_caption_says_why(tmp_path, caption, reason, detail, kind):
    members = [("a.mp4", b"x"), *([("a.json", caption.encode())] if caption is not None else [])]
    if kind == "tar":
        write_tar(tmp_path / "a.tar", members)
    for name, content in members if kind == "folder" else ():
        touch(tmp_path / name, content)
    if reason is None:
        assert list(read_all(tmp_path)[0].values()) == [detail]
        return
    _, (row,), (line,) = planned(tmp_path)
    assert row["reason"] == reason
    assert detail in row["detail"]
    assert line.startswith(f"1 {reason}, first ")
    assert line.endswith(row["detail"])


@pytest.mark.parametrize(
    ("table", "rows", "bad"),
    [
        ("video,caption\na.mp4,a cat, a dog\nb.mp4,one\n", {"b.mp4": "one"}, {2: "has 3 cells for 2 columns"}),
        ("caption,video\na cat, a dog,a.mp4\none,b.mp4\n", {"b.mp4": "one"}, {2: "has 3 cells for 2 columns"}),
        ('video,caption\n"1","a.mp4","a cat"\nb.mp4,one\n', {"b.mp4": "one"}, {2: "into quotes"}),
        ("video,caption,,\na.mp4,one, two\nb.mp4,one,,\n", {"b.mp4": "one"}, {2: "has 3 cells for 2 columns"}),
        ("video,caption\na.mp4,one,\nb.mp4,one,,,\n", {"a.mp4": "one", "b.mp4": "one"}, {}),
        ("video,caption\n,one\nb.mp4,one\n", {"b.mp4": "one"}, {2: "column 'video' of line 2 is empty"}),
        ("video,caption\na.mp4\nb.mp4,one\n", {"a.mp4": "", "b.mp4": "one"}, {}),
    ],
)
def test_rows_of_a_csv_with_other_cells_than_columns(tmp_path, table, rows, bad):
    (tmp_path / "t.csv").write_text(table)
    videos = read(tmp_path / "t.csv")
    assert {v.video_id: v.caption for v in videos if v.video_id} == rows
    faults = {v.uri.partition("#line=")[2]: v.fault.detail for v in videos if not v.video_id}
    assert list(faults) == [str(line) for line in bad]
    assert all(text in faults[str(line)] for line, text in bad.items())
    lacking = [v.fault for v in videos if v.video_id and not v.caption]
    assert all(f.detail == "line 2 has 1 cells for 2 columns, and no caption" for f in lacking)


def test_a_webvid_row_with_commas_is_set_aside(tmp_path):
    touch(tmp_path / "videos" / "1.mp4")
    (tmp_path / "t.csv").write_text("videoid,name\n1,a cat, a dog\n1,one\n")
    assert [(v.video_id, v.caption) for v in read(tmp_path / "t.csv")] == [("", ""), ("1", "one")]


def test_a_parquet_text_that_is_not_utf8_is_set_aside_or_read_by_the_setting(tmp_path):
    raw = pa.array(["caf\u00e9".encode("cp1252"), b"a hill", None])
    text = pa.StringArray.from_buffers(3, *raw.buffers()[1:], raw.buffers()[0], raw.null_count)
    pq.write_table(pa.table({"video": ["a.mp4", "b.mp4", "c.mp4"], "caption": text}), tmp_path / "t.parquet")
    first, second, third = read(tmp_path / "t.parquet")
    assert (first.caption, first.fault.reason, second.caption) == ("", Reason.BAD_CAPTION, "a hill")
    assert third.fault.reason is Reason.NO_CAPTION
    assert read(tmp_path / "t.parquet", encoding="cp1252")[0].caption == "caf\u00e9"


def test_what_is_left_out_is_kept_with_the_dataset(tmp_path):
    assert provenance.read_not_taken(str(tmp_path)) == {}
    provenance.write_not_taken(str(tmp_path), NonVideoFileCounts())
    assert not list(tmp_path.iterdir())
    provenance.write_not_taken(str(tmp_path), NonVideoFileCounts({".nfo": 12, ".part": 3}))
    assert describe_counts(provenance.read_not_taken(str(tmp_path))) == "12 .nfo, 3 .part"
    provenance.write_not_taken(str(tmp_path), NonVideoFileCounts())
    assert provenance.read_not_taken(str(tmp_path)) == {}
    many = NonVideoFileCounts({f".{i}": 1 for i in range(20)})
    assert describe_counts(many).endswith("8 of 8 other kinds")


def test_a_tables_columns_are_named_in_its_faults(tmp_path):
    (tmp_path / "t.jsonl").write_text('\n{"f": "a.mp4", "c": ["x", "y"]}\n\n[1]\n{"f": "", "c": "z"}\n')
    videos = read(tmp_path / "t.jsonl", columns=Columns(video="f", caption="c"))
    assert [(v.video_id, v.fault.reason, v.fault.detail) for v in videos] == [
        ("a.mp4", Reason.BAD_CAPTION, "column 'c' is a list of 2, and one text is needed"),
        ("", Reason.BAD_ROW, "line 4 is no JSON object"),
        ("", Reason.BAD_ID, "column 'f' of line 5 is empty"),
    ]
