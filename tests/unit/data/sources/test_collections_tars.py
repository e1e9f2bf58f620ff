import io
import json
import tarfile

import pytest

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.spec import Columns, SourceVideo
from animatediff.errors import UserError
from tests.unit.data.sources.test_reader import read


def write_tar(path, members, mode="w", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def sample(name, size=1000):
    return [(f"{name}.mp4", name.encode() * size), (f"{name}.txt", f" clip  {name}".encode())]


def test_samples_are_found_without_unpacking(tmp_path):
    write_tar(tmp_path / "s-00.tar", sample("000") + sample("001"))
    long = "deep/" * 60 + "002"
    write_tar(tmp_path / "s-01.tar", sample(long), format=tarfile.PAX_FORMAT)
    for uri in (tmp_path, f"{tmp_path}/*.tar", f"{tmp_path}/s-{{00..01}}.tar"):
        videos = read(uri)
        assert [(v.video_id, v.caption) for v in videos] == [
            ("s-00/000", "clip 000"),
            ("s-00/001", "clip 001"),
            (f"s-01/{long}", f"clip {long}"),
        ]
        names = ("000", "001", long)
        assert [fetch(v.uri, max_bytes=10**6) for v in videos] == [name.encode() * 1000 for name in names]


def test_members_of_a_sample(tmp_path):
    members = [
        ("./a.txt", b"first the text"),
        ("./a.depth.mp4", b"depth"),
        ("./a.mp4", b"video"),
        ("./._a.mp4", b"resource fork"),
        ("b.mp4", b""),
        ("b.json", json.dumps({"text": "from json", "alt": "chosen"}).encode()),
        ("c.json", b"{}"),
        ("README", b"no sample"),
        ("d.jpg", b"no video"),
        ("../e.mp4", b"x"),
        ("b.txt", b"late text"),
    ]
    write_tar(tmp_path / "t.tar", members)
    videos = read(tmp_path / "t.tar")
    assert [(v.video_id, v.caption) for v in videos] == [
        ("t/a", "first the text"),
        ("t/b", "late text"),
        ("t/../e", ""),
    ]
    assert [fetch(v.uri, max_bytes=10) for v in videos] == [b"video", b"", b"x"]
    assert read(tmp_path / "t.tar", columns=Columns(caption="alt"))[1].caption == "chosen"


def test_tars_of_one_name_in_two_folders(tmp_path):
    for folder in ("cats", "dogs"):
        write_tar(tmp_path / folder / "0.tar", sample("a"))
    expected = ["cats/0/a", "dogs/0/a"]
    for uri in (tmp_path, f"{tmp_path}/*/0.tar", f"{tmp_path}/{{cats,dogs}}/0.tar"):
        assert [v.video_id for v in read(uri)] == expected


def test_a_damaged_tar_gives_what_is_before_the_damage(tmp_path, caplog):
    write_tar(tmp_path / "a.tar", sample("000") + sample("001"))
    whole = (tmp_path / "a.tar").read_bytes()
    second = read(tmp_path / "a.tar")[1]
    start = int(second.uri.partition("offset=")[2].partition("&")[0])
    write_tar(tmp_path / "b.tar", sample("002"))
    for damaged in (whole[: start + 100], whole[: start - 512] + b"\x01" * 512 + whole[start:]):
        (tmp_path / "a.tar").write_bytes(damaged)
        first, bad, last = read(tmp_path)
        assert (first.video_id, last.video_id) == ("a/000", "b/002")
        assert bad.video_id == ""
        assert bad.uri.startswith(f"{tmp_path}/a.tar#offset=")
        assert "a.tar is damaged" in caplog.text
    (tmp_path / "a.tar").write_bytes(b"")
    assert read(tmp_path)[0] == SourceVideo("", f"{tmp_path}/a.tar#offset=0", "")


def test_a_compressed_tar_is_refused(tmp_path):
    write_tar(tmp_path / "a.tar.gz", sample("000"), "w:gz")
    write_tar(tmp_path / "b.tar", sample("000"), "w:gz")
    for name in ("a.tar.gz", "b.tar"):
        with pytest.raises(UserError, match=f"{name} is compressed.*plain tar"):
            read(tmp_path / name)
    with pytest.raises(UserError, match="no file .*c.tar"):
        read(tmp_path / "c.tar")


def test_members_are_read_to_the_byte_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.fetching.attempts._BACKOFF_S", 0.0)
    write_tar(tmp_path / "a.tar", sample("000"))
    (video,) = read(tmp_path / "a.tar")
    with pytest.raises(VideoError) as large:
        fetch(video.uri, max_bytes=2999)
    assert large.value.reason is Reason.TOO_LARGE
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1000])
    with pytest.raises(VideoError, match="488 of 3000 bytes came"):
        fetch(video.uri, max_bytes=3000)
