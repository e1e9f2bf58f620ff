"""Shards of shots, the page about them, and what `show` and `verify` say."""

import re

import pyarrow.parquet as pq
import pytest

from animatediff.commands import main
from animatediff.data import quarantine_table, shards
from animatediff.data.curation import page, scan_parts
from animatediff.data.curation.caption_parts import ShotCaption
from animatediff.data.curation.manifest import ShotManifest, find_manifest, write_manifest
from animatediff.data.curation.seal import plan_shards, with_captions, write_shard
from animatediff.data.curation.selection import SelectConfig, select
from animatediff.data.ingest.plan import Planner
from animatediff.data.manifest import read_manifest
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UserError
from tests.support_shots import commit_video, shot


def command(name, folder):
    with pytest.raises(SystemExit) as end:
        main([name, str(folder)])
    return end.value.code


def copy_video(row):
    if row["first"] == 96:
        raise VideoError("decode", Reason.DECODE_ERROR, "it cannot be cut out")
    return f"video of {row['shot_id']}".encode()


@pytest.fixture
def collection(tmp_path):
    """Two videos with five shots: one too short, one refused, one that cannot be copied."""
    planner = Planner(str(tmp_path), dataset_key="key", videos_per_unit=1, needs_captions=False)
    planner.add([SourceVideo(f"episode-{n}", f"/videos/episode-{n}.mkv", "") for n in (1, 2)])
    planner.finish()
    units = [
        commit_video(tmp_path, 1, [shot(0), shot(1), shot(2, reason="too_short")]),
        commit_video(tmp_path, 2, [shot(0), shot(3)]),
    ]
    rows = select(scan_parts.read_shots(str(tmp_path), units), SelectConfig(where="true", max_text=1))
    answers = [ShotCaption(shot_id, f"<b> {shot_id}", ("tag",), "model", "") for shot_id in rows["shot_id"].to_pylist()]
    answers[2] = None
    answers[4] = ShotCaption(answers[4].shot_id, "", (), "model", "caption_refused")
    rows = with_captions(rows, answers)
    plans = list(plan_shards(rows, edition=0, first_index=0, shard_bytes=2000))
    written = [write_shard(str(tmp_path), plan, copy_video, {"dataset_key": "key"}) for plan in plans]
    rejections = quarantine_table.to_table([])
    (tmp_path / "quarantine.parquet").write_bytes(shards.to_parquet(rejections, {}))
    manifest = ShotManifest(
        dataset_key="key",
        generation=0,
        selection={},
        edition=0,
        num_units=2,
        num_videos=2,
        quarantined={},
        shards=written,
    )
    write_manifest(str(tmp_path), manifest)
    return tmp_path


def test_a_shard_is_closed_at_its_size_and_holds_every_shot(collection):
    manifest = find_manifest(str(collection))
    assert [(shard.path, shard.num_shots) for shard in manifest.shards] == [
        ("shots/shots-000-00000.parquet", 2),
        ("shots/shots-000-00001.parquet", 3),
    ]
    assert manifest.reasons == {"caption_refused": 1, "not_copied": 1, "too_short": 1}
    assert (manifest.num_shots, manifest.num_selected, manifest.selected_s) == (5, 2, 6.0)
    rows = [row for shard in manifest.shards for row in pq.read_table(collection / shard.path).to_pylist()]
    assert [row["video"] is not None for row in rows] == [row["selected"] for row in rows]
    assert all(bool(row["reason"]) != row["selected"] for row in rows)


def test_references_hold_no_videos(collection, tmp_path):
    rows = scan_parts.read_shots(str(collection), ["unit-1"])
    rows = select(rows, SelectConfig(where="true"))
    (plan,) = plan_shards(rows, edition=1, first_index=0, shard_bytes=10**9)
    shard = write_shard(str(collection), plan, None, {})
    table = pq.read_table(collection / shard.path)
    assert table["video"].null_count == len(table) == 3
    assert shard.reasons == {"too_short": 1}


def test_show_and_verify_tell_of_shots(collection, capsys):
    assert command("show", collection) == 0
    said = capsys.readouterr().out
    assert "2 selected of 5" in said
    assert re.search(r"1 caption_refused\s+what was answered is no caption", said)
    assert command("verify", collection) == 0
    assert "everything is there, once" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["bytes", "gone", "doubled"])
def test_verify_says_what_is_wrong(collection, capsys, damage):
    manifest = find_manifest(str(collection))
    first = collection / manifest.shards[0].path
    if damage == "bytes":
        first.write_bytes(first.read_bytes()[:-9] + b"x" * 9)
    elif damage == "gone":
        first.unlink()
    else:
        write_manifest(str(collection), manifest.model_copy(update={"shards": [*manifest.shards, manifest.shards[0]]}))
    assert command("verify", collection) == 1
    said = capsys.readouterr().out
    assert {"bytes": "other bytes", "gone": "cannot be read", "doubled": "twice"}[damage] in said


def test_a_collection_is_no_dataset_of_latents(collection):
    with pytest.raises(UserError, match="holds shots and no latents: name it as source"):
        read_manifest(str(collection))


def test_the_pages_show_every_shot_and_escape_what_is_written(collection):
    page.write_pages(str(collection), find_manifest(str(collection)), "/videos")
    index = (collection / "index.html").read_text()
    assert "2 of 5 shots are selected" in index
    (collection / "pages" / "old.html").write_text("of another edition")
    page.write_pages(str(collection), find_manifest(str(collection)), "/videos")
    pages = sorted((collection / "pages").iterdir())
    assert len(pages) == 2
    assert all(path.name in index for path in pages)
    texts = [path.read_text() for path in pages]
    assert [text.count("<img") for text in texts] == [9, 6]
    assert "&lt;b&gt; episode-1@" in texts[0]
    assert "<b>" not in texts[0]
    assert texts[0].count('class="reason"') == 2
    assert '<option value="too_short">1 too_short</option>' in texts[0]
    assert texts[0].count('data-reason="too_short"') == 1
    assert "page <b>" not in texts[0]


def test_a_long_video_has_several_pages_and_repeats_are_linked_to_theirs(collection, monkeypatch):
    monkeypatch.setattr(page, "_MOST_SHOTS", 2)
    hashes = tuple(range(1, 16))
    units = [
        commit_video(collection, 1, [shot(0), shot(1), shot(2, phashes=hashes)]),
        commit_video(collection, 2, [shot(0, phashes=hashes)]),
    ]
    rows = select(scan_parts.read_shots(str(collection), units), SelectConfig(where="true", max_text=1))
    (plan,) = plan_shards(rows, edition=0, first_index=0, shard_bytes=10**9)
    shard = write_shard(str(collection), plan, None, {})
    page.write_pages(str(collection), find_manifest(str(collection)).model_copy(update={"shards": [shard]}), "/videos")
    names = sorted(path.name for path in (collection / "pages").iterdir())
    second, first, other = ((collection / "pages" / name).read_text() for name in names)
    assert [text.count('<div class="shot') for text in (first, second, other)] == [2, 1, 1]
    assert f'page <b>1</b> <a href="{names[0]}">2</a>' in first
    assert f'href="{names[0]}#episode-1%40000008000-000011000"' in other
