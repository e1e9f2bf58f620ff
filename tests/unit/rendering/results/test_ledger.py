"""The ledger of rendered items: what is there is told from files, and the table spares reading them again."""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff import storage
from animatediff.diffusion.context import Context
from animatediff.errors import UserError
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results.ledger import (
    NO_RESULT,
    Ledger,
    item_uri,
    make_result,
    read_item,
    read_results,
    write_item,
)
from animatediff.rendering.results.table import write_table


def item(number, **changes):
    values = {"entry": "one", "model": "m", "prompt": "a cat", "seed": number} | changes
    return Item(digest=f"{number:064d}", **values)


def rendered(folder, each, *, formats=("mp4",), **outcome):
    files = {kind: f"clips/{each.digest[-8:]}.{kind}" for kind in formats}
    for path in files.values():
        storage.write_bytes(str(folder / path), b"clip")
    values = {"status": "ok", "files": files, "seconds": {"unet": 1.5}, "attempts": 1} | outcome
    write_item(str(folder), make_result(each, **values))


def ledger(folder, items):
    return Ledger(str(folder), {each.digest for each in items})


def report(folder, items, **invalid):
    write_table(str(folder), ledger(folder, items).results(items, invalid))


def age(folder, seconds=60):
    """Make all that is there look older."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


@pytest.fixture
def items(tmp_path):
    """Three rendered, one failed, one of which nothing is known."""
    found = [item(0), item(1, context=Context(), num_frames=40), item(2), item(3), item(4)]
    for each in found[:3]:
        rendered(tmp_path, each)
    write_item(str(tmp_path), make_result(found[3], status="failed", error="it is broken"))
    return found


@pytest.mark.parametrize("with_table", [False, True])
def test_what_is_finished(tmp_path, items, with_table):
    if with_table:
        age(tmp_path)
        report(tmp_path, items)
    there = {each.digest for each in items[:3]}
    assert ledger(tmp_path, items).finished() == there
    assert ledger(tmp_path, items).finished(("mp4",)) == there
    assert ledger(tmp_path, items).finished(("mp4", "webp")) == set()
    assert ledger(tmp_path, items[1:2]).finished() == {items[1].digest}
    (tmp_path / "clips" / f"{items[0].digest[-8:]}.mp4").unlink()
    assert ledger(tmp_path, items).finished() == there - {items[0].digest}


def test_rows_say_what_became_of_each_item(tmp_path, items):
    twin = item(0, entry="other", prompt="a cat")
    bad = item(9)
    asked = [*items, twin, bad]
    age(tmp_path)
    report(tmp_path, asked, **{bad.digest: "there is no file x"})
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["entry"], row["status"], row["error"]) for row in rows] == [
        *[("one", "ok", None)] * 3,
        ("one", "failed", "it is broken"),
        ("one", "failed", NO_RESULT),
        ("other", "ok", None),
        ("one", "invalid", "there is no file x"),
    ]
    assert rows[0]["uri"] == str(tmp_path / dict(rows[0]["files"])["mp4"])
    assert rows[1]["context"] == {"length": 16, "overlap": 4}
    # From the table they come back as they went in, also when another has taken its place meanwhile.
    for path in (tmp_path / "items").iterdir():
        path.write_bytes(b"not read")
        os.utime(path, (0, 0))
    found = ledger(tmp_path, items[:3])
    (tmp_path / "results.parquet").write_bytes(b"not read either")
    again = list(found.results(items[:3], {}))
    assert [result.model_dump() for result in again] == [
        make_result(each, status="ok", files=dict(row["files"]), seconds={"unet": 1.5}, attempts=1).model_dump()
        for each, row in zip(items[:3], rows[:3], strict=True)
    ]


def test_a_file_that_is_newer_than_the_table_counts(tmp_path, items):
    age(tmp_path)
    report(tmp_path, items)
    rendered(tmp_path, items[3])
    rendered(tmp_path, items[0], scores={"my:s": {"size": 2.0}})
    found = ledger(tmp_path, items)
    assert items[3].digest in found.finished()
    assert [result.scores for result in found.results(items[:2], {})] == [{"my:s": {"size": 2.0}}, {}]


def test_a_row_without_a_clip_is_not_believed(tmp_path, items):
    """Its item may have been committed, by a worker that did not live to tell, before the table was written."""
    rows = [make_result(each, status="failed", error=NO_RESULT) for each in items]
    age(tmp_path)
    write_table(str(tmp_path), rows)
    there = {each.digest for each in items[:3]}
    assert ledger(tmp_path, items).finished() == there
    assert [result.status for result in ledger(tmp_path, items).results(items, {})] == ["ok"] * 3 + ["failed"] * 2


def test_a_row_whose_item_has_no_file_is_not_believed(tmp_path, items):
    age(tmp_path)
    report(tmp_path, items)
    storage.delete(item_uri(str(tmp_path), items[0].digest))
    assert ledger(tmp_path, items).finished() == {each.digest for each in items[1:3]}


def test_what_a_worker_wrote_before_it_died_is_found(tmp_path, items):
    found = ledger(tmp_path, items)
    found.delete_results([each.digest for each in items])
    rendered(tmp_path, items[0])
    rendered(tmp_path, items[4])
    assert [result.status for result in found.results(items, {})] == ["failed"] * 5
    found.refresh()
    assert [result.status for result in found.results(items, {})] == ["ok", "failed", "failed", "failed", "ok"]


def test_what_is_to_be_rendered_again_is_unknown_until_it_is_written(tmp_path, items):
    found = ledger(tmp_path, items)
    found.delete_results([items[0].digest, items[3].digest, items[4].digest])
    assert not storage.exists(item_uri(str(tmp_path), items[0].digest))
    assert [result.seed for result in found.results(items, {}, only_known=True)] == [1, 2]
    rendered(tmp_path, items[0])
    found.note_outcome(items[0].digest, "")
    found.note_outcome(items[3].digest, "the disk is full")
    results = list(found.results(items, {}))
    assert [result.error for result in results] == [None, None, None, "the disk is full", NO_RESULT]


def test_results_of_a_folder(tmp_path, items):
    with pytest.raises(UserError, match=r"there is no .*results.parquet: render a catalog there first"):
        read_results(str(tmp_path))
    report(tmp_path, items, **{items[4].digest: "there is no file x"})
    (tmp_path / "clips" / f"{items[0].digest[-8:]}.mp4").unlink()
    results = read_results(str(tmp_path))
    assert [result.status for result in results] == ["failed", "ok", "ok", "failed", "invalid"]
    assert "its clip is gone or damaged" in results[0].error
    assert results[4].error == "there is no file x"


def test_a_torn_or_foreign_item_is_not_done(tmp_path, items):
    (tmp_path / "items" / f"{items[0].digest}.json").write_text('{"digest": "x"')
    assert ledger(tmp_path, items).finished() == {items[1].digest, items[2].digest}
    age(tmp_path)
    for content in (b"", b'{"digest": "x"', b"PAR1"):
        (tmp_path / "results.parquet").write_bytes(content)
        assert ledger(tmp_path, items).finished() == {items[1].digest, items[2].digest}
    # One that an older version wrote, with other columns: all is read from the items.
    pq.write_table(pa.table({"digest": [items[0].digest], "status": ["ok"]}), tmp_path / "results.parquet")
    assert ledger(tmp_path, items).finished() == {items[1].digest, items[2].digest}


def test_a_ledger_on_s3(s3, tmp_path):
    output, items = "s3://videos/renders", [item(number) for number in range(3)]
    for each in items[:2]:
        path = f"clips/{each.digest[-8:]}.mp4"
        storage.write_bytes(storage.join(output, path), b"clip")
        write_item(output, make_result(each, status="ok", files={"mp4": path, "png": "clips/frames"}))
    storage.write_bytes(storage.join(output, "clips", "frames", "0000.png"), b"frame")
    there = {each.digest for each in items[:2]}

    def found():
        return Ledger(output, {each.digest for each in items})

    assert found().finished(("mp4", "png")) == there
    write_table(output, found().results(items, {}))
    assert found().finished() == there
    assert [result.status for result in read_results(output)] == ["ok", "ok", "failed"]
    found().delete_results([items[0].digest])
    assert not storage.exists(item_uri(output, items[0].digest))
    s3.delete_object(Bucket="videos", Key="renders/clips/frames/0000.png")
    assert found().finished() == set()


@pytest.mark.parametrize("through_table", [False, True])
@pytest.mark.parametrize("damage", [b"", b"cli", b"clips", None])
def test_a_clip_of_another_size_is_not_there(tmp_path, items, damage, through_table):
    rendered(tmp_path, items[0], num_bytes={"mp4": 4})
    if through_table:
        report(tmp_path, items)
        age(tmp_path)
        (tmp_path / "results.parquet").touch()
    there = {items[0].digest, items[1].digest, items[2].digest}
    assert ledger(tmp_path, items).finished() == there
    clip = tmp_path / "clips" / f"{items[0].digest[-8:]}.mp4"
    if damage is None:
        clip.unlink()
    else:
        clip.write_bytes(damage)
    assert ledger(tmp_path, items).finished() == there - {items[0].digest}
    if through_table:
        assert "its clip is gone or damaged" in read_results(str(tmp_path))[0].error


def test_an_item_with_a_flipped_bit_is_rendered_again(tmp_path, items):
    path = tmp_path / "items" / f"{items[1].digest}.json"
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(bytes(damaged))
        assert read_item(str(tmp_path), items[1].digest) is None, at
    path.write_bytes(whole)
    assert read_item(str(tmp_path), items[1].digest).num_frames == 40


def test_an_item_that_an_older_version_wrote_is_read(tmp_path, items):
    result = read_item(str(tmp_path), items[0].digest)
    (tmp_path / "items" / f"{items[0].digest}.json").write_text(result.model_dump_json(exclude={"num_bytes"}))
    assert read_item(str(tmp_path), items[0].digest) == result
    assert items[0].digest in ledger(tmp_path, items).finished()


@pytest.mark.parametrize("newer", [["num_bytes"], ["num_bytes", "scores", "score_errors", "fps", "context"], []])
def test_a_table_that_lacks_newer_columns_has_their_defaults(tmp_path, items, newer):
    report(tmp_path, items)
    table = pq.read_table(tmp_path / "results.parquet")
    whole = read_results(str(tmp_path))
    pq.write_table(table.drop_columns(newer), tmp_path / "results.parquet")
    assert [result.status for result in read_results(str(tmp_path))] == [result.status for result in whole]
    age(tmp_path)
    (tmp_path / "results.parquet").touch()
    for path in (tmp_path / "items").iterdir():
        path.write_bytes(b"not read")
        os.utime(path, (0, 0))
    assert ledger(tmp_path, items[:3]).finished() == {each.digest for each in items[:3]}
    assert [result.seed for result in read_results(str(tmp_path))[:3]] == [0, 1, 2]


@pytest.mark.parametrize("change", [lambda t: t.drop_columns(["digest"]), lambda t: t.drop_columns(["uri"])])
def test_a_foreign_table_is_told(tmp_path, items, change, caplog):
    report(tmp_path, items)
    pq.write_table(change(pq.read_table(tmp_path / "results.parquet")), tmp_path / "results.parquet")
    with pytest.raises(UserError, match="results.parquet cannot be used: run the animate job again"):
        read_results(str(tmp_path))
    assert "it has no column" in caplog.text
    assert ledger(tmp_path, items).finished() == {each.digest for each in items[:3]}


@pytest.mark.parametrize(
    ("column", "value"),
    [("fps", float("nan")), ("guidance_scale", float("inf")), ("num_frames", 0), ("status", "fine")],
)
def test_a_row_that_says_what_no_result_does_costs_itself(tmp_path, items, column, value, caplog):
    age(tmp_path)
    report(tmp_path, items)
    table = pq.read_table(tmp_path / "results.parquet")
    index = table.schema.get_field_index(column)
    values = [value, *table[column].to_pylist()[1:]]
    changed = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    pq.write_table(changed, tmp_path / "results.parquet")
    assert [result.seed for result in read_results(str(tmp_path))] == [1, 2, 3, 4]
    assert f"{items[0].digest} in results.parquet is no result, and does not count: its {column}" in caplog.text
    # Its own file tells what became of it.
    found = list(ledger(tmp_path, items[:1]).results(items[:1], {}))
    assert [result.status for result in found] == ["ok"]
