"""Bombs in sources: whatever a file claims or unpacks to, the driver reads it in little memory, or says what it is."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff.data.ingest.plan import Planner
from animatediff.data.sources.captions import clean_caption
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError
from animatediff.rendering.catalog.reading.tables import read_rows
from tests.unit.data.sources.test_collections_tars import sample, write_tar
from tests.unit.data.sources.test_reader import read, touch

MB = 1_000_000
ROOM_MB = 280
"""Of memory for one of them: what the bombs unpack to is more."""
ROOT = Path(__file__).parents[4]

# Reads each source and prints what came of it. The limit is for the machine's sake: what is judged is the peak.
READER = """
import json, pathlib, resource, sys
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UserError

def memory_mb(name):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split(name)[1].split()[0]) // 1000

resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000, resource.RLIM_INFINITY))
for uri in sys.argv[1:]:
    good, faults, held, outcome = [], [], 0, ""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mb("VmRSS:")
    try:
        for batch in read_source(SourceConfig(uri=uri)):
            held = max(held, sum(video.num_chars for video in batch))
            good += [video.video_id for video in batch if video.fault is None]
            faults += [[v.video_id or v.uri, *v.fault] for v in batch if v.fault is not None]
    except UserError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = f"{type(error).__name__} escapes: {error}"
    print(json.dumps([good[:9], faults[:9], len(faults), outcome, held, memory_mb("VmHWM:") - before]), flush=True)
"""


def packed_line(pack, before, filling, after, num_mb=400):
    """Pieces that are packed by themselves: these formats may stand one after the other."""
    return pack(before) + pack(filling * 10 * MB) * (num_mb // 10) + pack(after)


def csv_line(pack):
    return packed_line(pack, b"video,caption\na.mp4,dog\nb.mp4,", b"x", b"\nc.mp4,hill\n")


def jsonl_line(pack):
    first, last = (json.dumps({"video": f"{name}.mp4", "caption": "dog"}).encode() for name in "ac")
    return packed_line(pack, first + b"\n", b"[", b"\n" + last)


def parquet(path, captions):
    names = [f"{i}.mp4" for i in range(len(captions))]
    table = pa.table({"video": names, "caption": captions})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)


def repeated(text, number):
    return pa.DictionaryArray.from_arrays(pa.array([0] * number, pa.int32()), pa.array([text]))


def with_header(path, kind, size, content=b"", *, is_there=False):
    """A good sample, and a member whose header claims a size, which the file may have, in holes."""
    write_tar(path, sample("a", 10))
    info = tarfile.TarInfo("b.mp4")
    info.type, info.size = kind, max(0, size)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        header[124:136] = b"\xff" * 4 + (2**64 + size).to_bytes(8, "big")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    with path.open("r+b") as file:
        file.seek(2048)
        file.write(header + content)
        file.truncate(max(10_240, 4096 + len(content) + (max(0, size) if is_there else 0)))


def make(folder):
    """The bombs by name, with what is to come of each: good videos, reason or outcome, and words of its detail."""
    bad = {}

    def add(name, good, reason, words):
        bad[name] = good, reason, words
        return folder / name

    for suffix, pack in (
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lambda data: lzma.compress(data, preset=0)),
    ):
        add(
            f"line.csv.{suffix}", ["a.mp4", "c.mp4"], "bad_row", "line 3 cannot be read: it has 400000007 bytes"
        ).write_bytes(csv_line(pack))
    add("line.jsonl.gz", ["a.mp4", "c.mp4"], "bad_row", "line 2 cannot be read").write_bytes(jsonl_line(gzip.compress))
    deep = b'{"video": "a.mp4", "caption": ' + b"[" * 500_000 + b"\n" + b'{"video": "c.mp4", "caption": "dog"}'
    add("deep.jsonl", ["c.mp4"], "bad_row", "nested without end").write_bytes(deep)
    wide = ",".join(f"c{i}" for i in range(100_000)) + ",video,caption\n" + "," * 100_000 + "a.mp4,dog\n"
    add("wide.csv", ["a.mp4"], None, "").write_text(wide)
    add("no columns.csv", [], "UserError", "c29 and 99972 more").write_text(wide.replace("video", "v"))

    parquet(add("dictionary.parquet", [], "bad_caption", "1200000 characters"), repeated("x" * 1_200_000, 10_000))
    lists = pa.ListArray.from_arrays(pa.array(range(10_001), pa.int32()), repeated("x" * 1_200_000, 10_000))
    parquet(add("lists.parquet", [], "bad_caption", "1200000 characters"), lists)
    parquet(add("long.parquet", ["0.mp4", "2.mp4"], "bad_caption", "60000000 bytes"), ["dog", "x" * 60 * MB, "hill"])
    numbers = pa.ListArray.from_arrays(pa.array([0, 60 * MB], pa.int32()), pa.nulls(60 * MB, pa.string()))
    parquet(add("long list.parquet", [], "UserError", "60000000 values"), numbers)

    with_header(add("claim.tar", ["claim/a"], "truncated", "ends inside b.mp4"), tarfile.REGTYPE, 8_000 * MB)
    for name, kind in (("pax", tarfile.XHDTYPE), ("global", tarfile.XGLTYPE), ("name", tarfile.GNUTYPE_LONGNAME)):
        path = add(f"{name}.tar", [f"{name}/a"], "truncated", "a header claims 8000")
        with_header(path, kind, 8_000 * MB, is_there=True)
    with_header(add("back.tar", ["back/a"], "truncated", "leads back"), tarfile.REGTYPE, -1024)
    with_header(add("back pax.tar", ["back pax/a"], "truncated", "a header claims -"), tarfile.XHDTYPE, -4096)
    longname = tarfile.TarInfo("././@LongLink")
    longname.type, longname.size = tarfile.GNUTYPE_LONGNAME, 10
    with_header(
        add("names.tar", ["names/a"], "truncated", "recursion"),
        tarfile.GNUTYPE_LONGNAME,
        10,
        (bytes(512) + longname.tobuf()) * 5000 + bytes(1024),
    )
    with tarfile.open(add("holes.tar", ["holes/a"], "fetch_refused", "c.mp4 is sparse"), "w") as tar:
        told = {"major": "1", "minor": "0", "name": "c.mp4", "realsize": str(8_000 * MB)}
        sparse = tarfile.TarInfo("GNUSparseFile.0/c.mp4")
        sparse.pax_headers = {f"GNU.sparse.{name}": value for name, value in told.items()}
        sparse.size = 1024
        tar.addfile(sparse, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512))
        for name, content in sample("a", 10):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with tarfile.open(add("links.tar", ["links/a"], "not_found", "is a link"), "w") as tar:
        for name, content in sample("a", 10):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for i in range(3000):
            info = tarfile.TarInfo(f"{i}.mp4")
            info.type, info.linkname = tarfile.SYMTYPE, f"{i + 1}.mp4"
            tar.addfile(info)

    touch(add("sidecars", ["b.mp4"], "bad_caption", "a.txt") / "a.mp4")
    (folder / "sidecars" / "a.txt").symlink_to("/dev/zero")
    for name in ("b.mp4", "c.mp4", "d.mp4"):
        touch(folder / "sidecars" / name)
    (folder / "sidecars" / "b.txt").write_text("a hill")
    (folder / "sidecars" / "c.txt").touch()
    os.truncate(folder / "sidecars" / "c.txt", 5_000 * MB)
    (folder / "sidecars" / "d.json").write_text("[" * 500_000)

    for pattern in (
        "{0..100000000}.csv",
        "{a,b}" * 40 + ".tar",
        "{0.." + "9" * 5000 + "}.csv",
        "{0..999}" * 3 + ".tar",
    ):
        bad[pattern] = [], "UserError", "names more than 1000000 files"
    return bad


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    bad = make(folder)
    command = [sys.executable, "-c", READER, *(str(folder / name) for name in bad)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return bad, dict(zip(bad, lines, strict=True))


def test_each_bomb_costs_its_own_row_or_its_file_one_line(outcomes):
    bad, found = outcomes
    problems = []
    for name, (good, reason, words) in bad.items():
        ids, faults, _, outcome, _, _ = found[name]
        told = [outcome] if reason == "UserError" else [detail for _, why, detail in faults if why == reason]
        is_told = reason is None or any(words in text and "\n" not in text for text in told)
        if ids != good or not is_told or "escapes" in outcome or (outcome and reason != "UserError"):
            problems.append((name, ids, faults[:2], outcome[:300]))
        elif any(len(text) > 2000 for text in told):
            problems.append((name, "too long a message"))
    assert not problems, "\n".join(map(str, problems))


def test_no_bomb_takes_the_drivers_memory(outcomes):
    _, found = outcomes
    assert len(found) > 20
    peaks = {name: line[5] for name, line in found.items()}
    assert max(peaks.values()) < ROOM_MB, peaks
    assert max(line[4] for line in found.values()) < 20 * MB
    assert found["dictionary.parquet"][2] == found["lists.parquet"][2] == 10_000
    assert found["sidecars"][2] == 3


@pytest.mark.parametrize(
    "text",
    ["e" + "\u0301\u0323" * 400_000, "\"'" * 200_000 + "x" + "'\"" * 200_000, "\u4e00" * 900_000, "<" * 900_000],
)
def test_a_caption_takes_no_time_or_is_set_aside(tmp_path, text):
    touch(tmp_path / "a.mp4")
    table = json.dumps({"video": "a.mp4", "caption": text}) + "\n"
    (tmp_path / "t.jsonl").write_text(table)
    (video,) = read(tmp_path / "t.jsonl")
    assert video.fault is None or "accents on one letter" in video.fault.detail or "is empty" in video.fault.detail
    assert clean_caption(video.caption) == video.caption


def test_patterns_name_no_more_files_than_can_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.listing.MAX_FILES", 5)
    for i in range(8):
        write_tar(tmp_path / "deep" / f"{i}.tar", sample("a", 1))
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    assert len(read(f"{tmp_path}/deep/[0-4].tar")) == 5
    for pattern in ("**/*.tar", "*/*.tar", "deep/[0-7].tar", "deep/{0..7}.tar", "{deep,deep/loop/deep}/[0-3].tar"):
        with pytest.raises(UserError, match="names more than 5 files"):
            read(f"{tmp_path}/{pattern}")


def test_rows_without_end_are_a_source_of_no_use(monkeypatch, tmp_path):
    monkeypatch.setattr("animatediff.data.ingest.plan._MAX_REJECTED", 25_000)
    nulls = pa.nulls(90_000, pa.string())
    pq.write_table(pa.table({"video": nulls, "caption": nulls}), tmp_path / "t.parquet")
    planner = Planner(None, dataset_key="key", videos_per_unit=3)
    batches = read_source(SourceConfig(uri=f"{tmp_path}/t.parquet"))
    words = "30000 rows of the source are of no use, .* column 'video' of row 20000 is empty"
    with pytest.raises(UserError, match=words):
        list(map(planner.add, batches))


def test_a_segment_of_the_plan_has_no_more_text_than_a_worker_holds(monkeypatch, tmp_path):
    monkeypatch.setattr("animatediff.data.ingest.plan._MAX_FILE_CHARS", 10_000)
    lines = [json.dumps({"video": f"{i}.mp4", "caption": "x" * 1000}) + "\n" for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(lines))
    planner = Planner(str(tmp_path / "dataset"), dataset_key="key", videos_per_unit=3)
    for batch in read_source(SourceConfig(uri=f"{tmp_path}/t.jsonl")):
        planner.add(batch)
    planner.finish()
    again = Planner(str(tmp_path / "dataset"), dataset_key="key", videos_per_unit=3)
    again.resume(str(tmp_path / "dataset"))
    assert again.units == planner.units
    assert len({unit.plan_file for unit in planner.units}) == 5


@pytest.mark.parametrize(
    ("column", "options"),
    [
        (["dog", "cat", None] * 2000, {}),
        (["dog", "cat", None] * 2000, {"use_dictionary": False}),
        (["dog", "cat", None] * 2000, {"use_dictionary": False, "column_encoding": {"caption": "DELTA_BYTE_ARRAY"}}),
        (
            ["dog", "cat", None] * 2000,
            {"use_dictionary": False, "column_encoding": {"caption": "DELTA_LENGTH_BYTE_ARRAY"}},
        ),
        ([f"dog {i}" for i in range(6000)], {"dictionary_pagesize_limit": 1000, "data_page_size": 1000}),
        ([["dog"], ["cat"], None, ["a", "b"], []] * 1200, {}),
        (pa.array(["dog", "cat", None] * 2000).dictionary_encode(), {}),
        (pa.array([b"dog", b"cat", b"\xff"] * 2000), {"data_page_version": "2.0"}),
        (pa.array([{"en": "dog"}, None] * 3000), {}),
        (pa.array([1.5, float("nan"), None] * 2000), {}),
    ],
)
@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_portions_change_nothing_that_is_read(tmp_path, monkeypatch, column, options, compression):
    """However a column is stored: the same rows at whole row groups and a few rows at a time."""
    names = [f"{i}.mp4" for i in range(6000)]
    options = {"use_dictionary": True, **options}
    table = pa.table({"video": names, "caption": column})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=4000, compression=compression, **options)
    whole = read(tmp_path / "t.parquet")
    monkeypatch.setattr("animatediff.data.sources.tables.parquet_pages._BATCH_BYTES", 100)
    few = read(tmp_path / "t.parquet")
    assert [video.video_id for video in whole] == names
    assert few == whole
    assert [video.fault for video in few] == [video.fault for video in whole]
    for video, value in zip(whole[:5], pa.chunked_array([pa.array(column)])[:5].to_pylist(), strict=True):
        text = value[0] if isinstance(value, list) and len(value) == 1 else value
        text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        assert video.caption == text or (video.fault and not video.caption)


def test_a_page_that_no_memory_holds_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("animatediff.data.sources.tables.parquet_pages._MAX_PAGE_BYTES", 100_000)
    parquet(tmp_path / "t.parquet", ["x" * 200_000])
    with pytest.raises(
        UserError, match=r"t.parquet has a page of 20\d+ bytes in the column 'caption', .* smaller cells"
    ):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_damaged_footer_neither_ends_the_process_nor_escapes(tmp_path, version):
    """Arrow's statistics and histograms abort where they are asked for: nothing here asks."""
    table = pa.table({"video": ["a.mp4", "b.mp4"] * 20, "caption": ["dog", None] * 20})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, data_page_version=version, write_page_index=True)
    whole, rng = buffer.getvalue(), random.Random(0)
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    outcomes = Counter()
    for _ in range(400):
        data = bytearray(whole)
        data[rng.randrange(start, len(data))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        (tmp_path / "t.parquet").write_bytes(data)
        try:
            outcomes["read"] += bool(read(tmp_path / "t.parquet"))
        except UserError as error:
            outcomes["told"] += "t.parquet" in str(error) and "\n" not in str(error)
    assert outcomes.total() == 400
    assert min(outcomes.values()) > 20


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_a_catalogs_table_has_the_same_bounds(tmp_path, suffix):
    path, text = tmp_path / f"t.{suffix}", "x" * 1_200_000
    if suffix == "parquet":
        names = pa.array(["m"] * 5000)
        table = pa.table({"name": names, "checkpoint": names, "prompt": repeated(text, 5000)})
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    elif suffix == "jsonl":
        path.write_text(json.dumps({"name": "m", "checkpoint": "m", "prompt": text}))
    else:
        path.write_text(f"name,checkpoint,prompt\nm,m,{text}\n")
    with pytest.raises(UserError) as error:
        list(read_rows(str(path), ["name", "checkpoint", "prompt"]))
    assert len(str(error.value)) < 1000
    # Python's own bound for the cells of a CSV is lower, until something in the process has raised it.
    assert "1200000 characters" in str(error.value) or (suffix == "csv" and "field limit" in str(error.value))
