import pytest

from animatediff.data.sources import SourceVideo, read_source
from animatediff.errors import UserError

HEADER = "videoid,contentUrl,duration,page_dir,name\n"


def touch(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["000001_000050/7.mp4", "7.mp4"])
def test_webvid_layouts(tmp_path, layout):
    touch(tmp_path / "videos" / layout)
    csv = tmp_path / "results.csv"
    csv.write_text(HEADER + '7,u,PT00H00M03S,000001_000050,"A  dog,\n running"\n')
    expected = SourceVideo("7", str(tmp_path / "videos" / layout), "A dog, running")
    assert read_source(str(csv)) == [expected]
    assert read_source(str(csv), videos_uri=str(tmp_path / "videos")) == [expected]


def test_a_few_dead_links_do_not_hide_the_layout(tmp_path):
    touch(tmp_path / "videos" / "p" / "3.mp4")
    csv = tmp_path / "results.csv"
    csv.write_text(HEADER + "".join(f"{i},u,d,p,caption\n" for i in range(1, 4)))
    assert [v.uri for v in read_source(str(csv))] == [str(tmp_path / "videos" / "p" / f"{i}.mp4") for i in range(1, 4)]


def test_folder_with_sidecars(tmp_path):
    for name in ("b.mp4", "sub/a.WEBM", "notes.pdf", "lonely.mov"):
        touch(tmp_path / name)
    (tmp_path / "b.txt").write_text(" a  red\nstar ")
    (tmp_path / "sub" / "a.txt").write_text("a hill")
    assert [(v.video_id, v.caption) for v in read_source(str(tmp_path))] == [
        ("b.mp4", "a red star"),
        ("lonely.mov", ""),
        ("sub/a.WEBM", "a hill"),
    ]


def test_odd_csv_files(tmp_path):
    touch(tmp_path / "videos" / "1.mp4")
    (tmp_path / "a.CSV").write_text("videoid,name\n1,dog\n2\n")
    assert [(v.video_id, v.caption) for v in read_source(str(tmp_path / "a.CSV"))] == [("1", "dog"), ("2", "")]
    (tmp_path / "b.csv").write_bytes("videoid,name\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="b.csv is no CSV in UTF-8"):
        read_source(str(tmp_path / "b.csv"))
    (tmp_path / "c.csv").write_text("videoid,name\n")
    with pytest.raises(UserError, match="c.csv lists no videos"):
        read_source(str(tmp_path / "c.csv"))


def test_errors_name_the_thing_and_the_remedy(tmp_path):
    with pytest.raises(UserError, match="no videos.*absent"):
        read_source(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no file .*absent.csv"):
        read_source(str(tmp_path / "absent.csv"))
    (tmp_path / "x.csv").write_text("id,caption\n1,dog\n")
    with pytest.raises(UserError, match="no column name and no column videoid"):
        read_source(str(tmp_path / "x.csv"))
    (tmp_path / "y.csv").write_text(HEADER + "1,u,d,p,dog\n")
    with pytest.raises(UserError, match="p/1.mp4 nor .*1.mp4 exists.*videos_uri"):
        read_source(str(tmp_path / "y.csv"))
