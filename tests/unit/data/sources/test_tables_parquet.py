import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.fetching import parquet_cells
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.spec import Columns, SourceVideo
from animatediff.errors import UserError
from tests.unit.data.sources.test_reader import read


def write(path, columns, rows=1000):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def test_paths(tmp_path):
    columns = {
        "Path": pa.array(["a.mp4", None, "s3://b/c.mp4"]),
        "text": pa.array(["one", "two", None], pa.large_string()).dictionary_encode(),
        "score": [0.1, 0.2, 0.3],
    }
    write(tmp_path / "t.parquet", columns, rows=2)
    assert read(tmp_path / "t.parquet") == [
        SourceVideo("a.mp4", f"{tmp_path}/a.mp4", "one"),
        SourceVideo("", f"{tmp_path}/t.parquet#row=1", "two"),
        SourceVideo("b/c.mp4", "s3://b/c.mp4", ""),
    ]
    by_score = read(tmp_path / "t.parquet", columns=Columns(id="score"), videos_uri="/v")
    assert [(v.video_id, v.uri) for v in by_score][:2] == [("0.1", "/v/a.mp4"), ("", f"{tmp_path}/t.parquet#row=1")]
    with pytest.raises(UserError, match="no column 'nr'; it has Path, text, score: set source.columns.caption"):
        read(tmp_path / "t.parquet", columns=Columns(caption="nr"))


@pytest.mark.parametrize("folder", ["tables", "spark.parquet"])
def test_a_folder_of_files_is_read_in_order(tmp_path, folder):
    for part in (2, 0, 1):
        write(tmp_path / folder / "p" / f"part-{part}.parquet", {"id": [part], "video": [f"{part}.mp4"], "text": ["t"]})
    (tmp_path / folder / "_SUCCESS").touch()
    assert [(v.video_id, v.uri) for v in read(tmp_path / folder)] == [
        (str(i), f"{tmp_path}/{folder}/p/{i}.mp4") for i in range(3)
    ]


def videos(num, size=100):
    return [f"{i:04d}".encode() * size for i in range(num)]


@pytest.mark.parametrize("nested", [False, True])
def test_videos_in_a_column(tmp_path, nested):
    cells = [*videos(30), None]
    column = [{"bytes": cell, "path": "x"} if cell else None for cell in cells] if nested else cells
    write(tmp_path / "t.parquet", {"id": list(range(31)), "video": column, "text": ["t"] * 31}, rows=12)
    found = read(tmp_path / "t.parquet")
    assert [v.video_id for v in found] == [str(i) for i in range(31)]
    order = list(range(30))
    random.Random(0).shuffle(order)
    for i in [*range(30), *order]:
        assert fetch(found[i].uri, max_bytes=400) == cells[i]
    for uri, reason in {
        found[30].uri: Reason.NOT_FOUND,
        found[0].uri.replace("row=0", "row=12"): Reason.NOT_FOUND,
    }.items():
        with pytest.raises(VideoError) as error:
            fetch(uri, max_bytes=400)
        assert error.value.reason is reason
    with pytest.raises(VideoError) as error:
        fetch(found[3].uri, max_bytes=399)
    assert error.value.reason is Reason.TOO_LARGE
    assert fetch(found[3].uri, max_bytes=400) == cells[3]


def test_neighbours_are_read_once_and_in_little_memory(tmp_path, monkeypatch):
    size = 1 << 16
    table = pa.table({"id": list(range(400)), "video": videos(400, size // 4), "text": ["t"] * 400})
    pq.write_table(table, tmp_path / "t.parquet", write_batch_size=8, use_dictionary=False)
    del table
    opened = []
    start = parquet_cells._Cursor.__init__
    monkeypatch.setattr(parquet_cells._Cursor, "__init__", lambda self, cell: opened.append(cell) or start(self, cell))
    found = read(tmp_path / "t.parquet")
    before, most = pa.total_allocated_bytes(), 0
    # As threads that fetch ahead ask: nearly in order.
    for i in [j + k for j in range(0, 400, 4) for k in (1, 0, 3, 2)]:
        assert fetch(found[i].uri, max_bytes=size)[:4] == b"%04d" % i
        most = max(most, pa.total_allocated_bytes() - before)
    assert len(opened) == 1
    assert most < 80 * size


def test_videos_in_a_column_need_ids(tmp_path):
    write(tmp_path / "t.parquet", {"mp4": videos(2), "text": ["a", "b"]})
    with pytest.raises(UserError, match=r"it has mp4, text: set source.columns.id .*column 'mp4'"):
        read(tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"no column 'text'; it has mp4: set source.columns.bytes"):
        read(tmp_path / "t.parquet", columns=Columns(bytes="text"))


def test_damaged_files(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.fetching.attempts._BACKOFF_S", 0.0)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match="bad.parquet is no Parquet file"):
        read(tmp_path / "bad.parquet")
    write(tmp_path / "t.parquet", {"id": [0], "video": videos(1), "text": ["t"]})
    (video,) = read(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(VideoError) as error:
        fetch(video.uri, max_bytes=1000)
    assert error.value.reason is Reason.TRUNCATED
    (tmp_path / "t.parquet").unlink()
    with pytest.raises(VideoError) as error:
        fetch(video.uri, max_bytes=1000)
    assert error.value.reason is Reason.NOT_FOUND
