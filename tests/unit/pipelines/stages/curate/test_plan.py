"""Curation before any worker starts: what is planned, which settings may change, and what a dry run tells."""

import logging

import pytest

from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.curation import caption_parts
from animatediff.data.curation.manifest import ShotManifest, write_manifest
from animatediff.data.curation.selection import SelectConfig
from animatediff.data.shots.config import ShotConfig
from animatediff.data.sources.spec import SourceConfig
from animatediff.errors import UsageError, UserError
from pipelines import curate
from pipelines.settings import CurateConfig
from pipelines.stages.curate.plan import caption_settings, plan_job, read_inputs
from tests.support import mp4
from tests.support_shots import commit_video, shot

ASKED = CaptionConfig(function="json:dumps")


@pytest.fixture
def source(tmp_path):
    """Two videos, of which one has a caption that nobody can read, and a file that is no video."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(mp4(48))
    (folder / "b.mp4").write_bytes(mp4(96))
    (folder / "b.txt").write_bytes(b"\xff\xfe\xff")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    return folder


def make_config(tmp_path, **fields):
    return CurateConfig(source=SourceConfig(uri=str(tmp_path / "source")), output_uri=str(tmp_path / "out"), **fields)


def planned(config):
    return plan_job(config, read_inputs(config))


def seal(config, **fields):
    """As if the job had ended: with the captions' generation, and the selection of `config`."""
    job = planned(config)
    values = {"dataset_key": job.dataset_key, "generation": job.generation, "selection": job.selection, "edition": 0}
    counts = {"num_units": len(job.units), "num_videos": 2, "quarantined": {}, "shards": []}
    write_manifest(job.output_uri, ShotManifest(**values | counts | fields))


def test_videos_need_no_caption_and_one_that_is_broken_is_no_fault(source, tmp_path):
    job = planned(make_config(tmp_path))
    assert [unit.num_videos for unit in job.pending_units] == [1, 1]
    assert len(job.rejected_in_planning) == 0
    assert job.generation is None


def test_what_is_scanned_is_not_pending_and_what_is_new_is(source, tmp_path):
    config = make_config(tmp_path)
    first, second = planned(config).units
    commit_video(tmp_path / "out", 1, [shot(0)])
    (tmp_path / "out" / "parts" / "unit-1.parquet").rename(tmp_path / "out" / "parts" / f"{first.unit_id}.parquet")
    (source / "c.mp4").write_bytes(mp4(30))
    job = planned(config)
    assert [unit.unit_id for unit in job.pending_units] == [second.unit_id, job.units[2].unit_id]


def test_other_shots_are_refused_and_another_selection_is_not(source, tmp_path):
    seal(make_config(tmp_path))
    with pytest.raises(UsageError, match=r"shots\.min_s: 2\.0 -> 1\.0.*choose another output_uri"):
        read_inputs(make_config(tmp_path, shots=ShotConfig(min_s=1)))
    same, other = planned(make_config(tmp_path)), planned(make_config(tmp_path, select=SelectConfig(where="true")))
    assert (same.kept_manifest is not None, same.edition, same.unsealed_units) == (True, 0, [])
    assert (other.kept_manifest, other.edition, len(other.unsealed_units)) == (None, 1, 2)
    stored = planned(make_config(tmp_path, store="reference"))
    assert (stored.kept_manifest, stored.edition) == (None, 1)


def test_captions_named_later_are_asked_for_without_a_new_scan(source, tmp_path):
    seal(make_config(tmp_path))
    job = planned(make_config(tmp_path, captions=ASKED))
    assert (job.generation, job.kept_manifest, job.edition) == (0, None, 1)


def test_where_the_server_stands_decides_no_caption_and_the_prompt_does(source, tmp_path):
    config = make_config(tmp_path, captions=CaptionConfig(url="http://gpu1:8000/v1"))
    caption_parts.begin_generation(config.output_uri, 0, caption_settings(config))
    seal(config)
    moved = CaptionConfig(url="http://gpu2:8000/v1", concurrency=3)
    assert planned(make_config(tmp_path, captions=moved)).generation == 0
    with pytest.raises(UsageError, match=r"prompt.*recaption to all"):
        read_inputs(make_config(tmp_path, captions=CaptionConfig(url="http://gpu1:8000/v1", prompt="what is it?")))
    again = make_config(tmp_path, captions=moved, recaption="all")
    assert (planned(again).generation, planned(again).edition) == (1, 1)


@pytest.mark.parametrize("field", [{"recaption": "all"}, {"retry_quarantined": ("not_found",)}])
def test_what_is_for_a_sealed_collection_is_refused_before(source, tmp_path, field):
    with pytest.raises(UserError, match=f"not sealed yet: finish the job, then run it with {next(iter(field))}"):
        read_inputs(make_config(tmp_path, **field))


def test_a_dry_run_tells_hours_and_costs_and_writes_nothing(source, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    rate = {"usd_per_hour": 0.5, "usd_per_1000_captions": 2.0}
    config = make_config(tmp_path, captions=ASKED, dry_run=True, rate=rate)
    assert curate.main(config) is None
    assert "to scan: 2 videos; 0 units are done" in caplog.text
    assert "not taken: " in caplog.text
    assert "from the headers of 2 videos" in caplog.text
    assert caplog.text.count("USD") == 2
    assert not (tmp_path / "out").exists()
