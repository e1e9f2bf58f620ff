"""Verification finds each kind of loss, and nothing in a whole dataset."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from animatediff.data import shards
from animatediff.data.ingest import parts, seal
from animatediff.data.inspection.verify import verify
from animatediff.data.manifest import read_manifest, write_manifest
from animatediff.errors import UserError
from tests.support_data import commit, do_seal, make_dataset, make_videos, plan


@pytest.fixture
def dataset(tmp_path):
    make_dataset(str(tmp_path), 12, windows=2)
    return str(tmp_path)


def shard_path(dataset, index=0):
    return Path(dataset) / read_manifest(dataset).shards[index].path


def rewrite(dataset, change, index=0):
    """Replace a shard's rows, and let the manifest promise exactly what is there."""
    manifest = read_manifest(dataset)
    path = shard_path(dataset, index)
    data = path.read_bytes()
    table = change(shards.from_parquet(data))
    path.write_bytes(shards.to_parquet(table, shards.read_footer(data)))
    entry = manifest.shards[index].model_copy(
        update={"sha256": shards.sha256(path.read_bytes()), "num_clips": len(table)}
    )
    listed = [entry if i == index else shard for i, shard in enumerate(manifest.shards)]
    write_manifest(dataset, manifest.model_copy(update={"shards": listed}))


def problems(dataset):
    return "\n".join(verify(dataset).problems)


def test_a_whole_dataset_has_no_problem(dataset):
    report = verify(dataset)
    assert report.problems == []
    assert (report.num_planned, report.num_videos, report.num_clips, report.num_quarantined) == (12, 10, 20, 2)


def test_it_stays_whole_when_it_grows_and_when_rejects_are_tried_again(dataset):
    again = [video for video in make_videos(12) if video.video_id == "v4"]
    units, rejected = plan(dataset, make_videos(20), again=again)
    for unit in units[4:]:
        commit(dataset, unit, rejects=lambda number: number == 15)
    do_seal(dataset, units, rejected_in_planning=rejected, again=again)
    report = verify(dataset)
    assert report.problems == []
    assert (report.num_planned, report.num_videos, report.num_quarantined) == (20, 18, 2)


def test_lost_and_changed_shards(dataset):
    path = shard_path(dataset)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    assert f"{path.relative_to(dataset)} has other bytes than the manifest says" in problems(dataset)
    path.unlink()
    assert f"{path.relative_to(dataset)} is missing" in problems(dataset)
    assert "planned videos that are neither in a shard nor in quarantine" in problems(dataset)


def test_lost_and_doubled_clips(dataset):
    rewrite(dataset, lambda table: table.slice(1))
    assert "videos of bucket=2x16x16/shard-00000.parquet whose clips are not all there: v0" in problems(dataset)
    rewrite(dataset, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert "clips of bucket=2x16x16/shard-00000.parquet that stand in a shard already: v0-1" in problems(dataset)


def test_a_video_in_two_places(dataset):
    first = shards.from_parquet(shard_path(dataset).read_bytes())
    rewrite(dataset, lambda table: pa.concat_tables([table, first.slice(0, 2)]), index=1)
    assert "videos of bucket=2x16x16/shard-00001.parquet that other shards have too: v0" in problems(dataset)

    rows = seal.read_quarantine(dataset).to_pylist()
    rows.append(rows[0] | {"video_id": "v1"})
    table = pa.Table.from_pylist(rows, schema=seal.read_quarantine(dataset).schema)
    (Path(dataset) / "quarantine.parquet").write_bytes(shards.to_parquet(table, {}))
    assert "1 videos that are in a shard and in quarantine: v1" in problems(dataset)


def test_what_is_planned_but_not_sealed(dataset):
    units, _ = plan(dataset, make_videos(15))
    commit(dataset, units[-1])
    assert "1 units of the plan are not sealed yet: run the ingest job again" in problems(dataset)
    assert parts.committed_unit_ids(dataset) == {units[-1].unit_id}


def edited(manifest, name):
    """The manifest with another value of a field."""
    first = manifest.shards[0]
    changes = {
        "encoder_fp": {"encoder_fp": "another"},
        "scaling_factor": {"scaling_factor": 0.13025},
        "num_units": {"num_units": manifest.num_units + 1},
        "row_group_rows": {"shards": [first.model_copy(update={"row_group_rows": [1]}), *manifest.shards[1:]]},
    }
    return manifest.model_copy(update=changes[name])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("encoder_fp", "is of another dataset: its encoder_fp differs"),
        ("scaling_factor", "is of another dataset: its scaling_factor differs"),
        ("num_units", "the plan has 4 units, the manifest says 5"),
        ("row_group_rows", "has other row groups than the manifest says"),
    ],
)
def test_a_manifest_of_another_content(dataset, name, problem):
    write_manifest(dataset, edited(read_manifest(dataset), name))
    assert problem in problems(dataset)


@pytest.mark.parametrize("name", ["encoder_fp", "scaling_factor", "num_units", "row_group_rows"])
def test_an_edited_manifest_is_refused_wherever_it_is_read(dataset, name):
    path = Path(dataset) / "manifest.json"
    content, manifest = json.loads(path.read_text()), read_manifest(dataset)
    path.write_text(json.dumps(content | edited(manifest, name).model_dump(mode="json")))
    with pytest.raises(UserError, match=r"manifest\.json was changed or damaged .* restore it"):
        read_manifest(dataset)
    # A formatter, and one from before there were checksums.
    path.write_text(json.dumps(content, indent=7))
    assert read_manifest(dataset) == manifest
    path.write_text(manifest.model_dump_json())
    assert read_manifest(dataset) == manifest


def test_latents_that_were_cut(dataset):
    def cut(table):
        column = pa.array([value[:-2] for value in table["latent"].to_pylist()], pa.binary())
        return table.set_column(table.schema.get_field_index("latent"), "latent", column)

    rewrite(dataset, cut)
    assert "has latents of other sizes than their shapes" in problems(dataset)
