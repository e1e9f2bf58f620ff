"""What MLflow is told of an ingest: the dataset's numbers, over all jobs that encode it."""

import pytest

from animatediff.data import quarantine_table
from animatediff.data.manifest import read_manifest
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.plan import IngestJob
from pipelines.stages.ingest.stage import UnitResult
from pipelines.stages.ingest.watch import IngestState, Totals, count_for_prometheus
from pipelines.tracking.metrics import JobMetrics
from tests.support_data import LATENT_ENCODING, commit, make_dataset, make_videos, plan, sealed_manifest
from tests.unit.pipelines.tracking.test_metrics import Recorded


class Log:
    def __init__(self):
        self.metrics = {}

    def log_metrics(self, step, metrics):
        self.metrics |= metrics | {"step": step}


def job_of(dataset, units, done=0):
    sealed = sealed_manifest(dataset)
    first = sealed.num_units if sealed else 0
    rejected = quarantine_table.SCHEMA.empty_table()
    return IngestJob(dataset, "base", "float32", LATENT_ENCODING, units, units[first + done :], rejected, sealed)


def track(job, *results, state=None, **config):
    fields = {"source": {"uri": "videos"}, "output_uri": job.output_uri, "base": "base"} | config
    totals = Totals.at_start(IngestConfig.model_validate(fields), job, state or IngestState())
    for result in results:
        totals.add(result)
    log = Log()
    totals.track(log, is_last=True)
    return log.metrics


def result(num_clips, **reasons):
    return UnitResult(
        "unit", num_videos=3, num_clips=num_clips, reasons=reasons, seconds={"decode": 1.0, "encode": 2.0}
    )


@pytest.mark.parametrize(
    ("added", "told"),
    [
        (result(0, empty=3), {"clips": 8, "quarantined": 5, "quarantined_empty": 5}),  # broken videos alone
        (result(2, timeout=1), {"clips": 10, "quarantined": 3, "quarantined_empty": 2, "quarantined_timeout": 1}),
    ],
)
def test_a_rerun_with_more_videos_adds_to_what_is_sealed(tmp_path, added, told):
    dataset = str(tmp_path)
    make_dataset(dataset, 10)  # 8 clips, and 2 videos that are empty
    units, _ = plan(dataset, make_videos(13))
    metrics = track(job_of(dataset, units), added, state=IngestState(decode_s=10.0, encode_s=20.0))
    assert metrics.items() >= {**told, "decode_s": 11.0, "encode_s": 22.0, "step": len(units)}.items()


def test_seconds_of_scorers_are_told_where_there_are_any_and_kept(tmp_path):
    dataset = str(tmp_path)
    units, _ = plan(dataset, make_videos(3))
    scored = UnitResult("unit", 3, 1, {}, {"decode": 1.0, "score": 5.0, "encode": 2.0})
    assert "score_s" not in track(job_of(dataset, units), result(1))
    assert track(job_of(dataset, units), scored, state=IngestState(score_s=1.5))["score_s"] == 6.5
    config = IngestConfig.model_validate({"source": {"uri": "videos"}, "output_uri": dataset, "base": "base"})
    totals = Totals.at_start(config, job_of(dataset, units), IngestState(decode_s=1.0))
    totals.add(scored)
    assert totals.state("run") == IngestState(mlflow_run_id="run", decode_s=2.0, score_s=5.0, encode_s=2.0)


def test_a_job_that_was_killed_goes_on_with_its_parts(tmp_path):
    dataset = str(tmp_path)
    units, _ = plan(dataset, make_videos(9))
    for unit in units[:2]:
        commit(dataset, unit)  # 5 clips, v4 is empty
    metrics = track(job_of(dataset, units, done=2), result(3))
    assert metrics.items() >= {"clips": 8, "quarantined": 1, "quarantined_empty": 1, "step": 3}.items()


def test_videos_that_are_tried_again_count_once(tmp_path):
    dataset = str(tmp_path)
    make_dataset(dataset, 10)
    again = [video for video in make_videos(10) if video.video_id in ("v4", "v9")]
    units, _ = plan(dataset, make_videos(10), again=again)
    metrics = track(job_of(dataset, units), result(1, empty=1), retry_quarantined=["empty"])
    assert metrics.items() >= {"clips": 9, "quarantined": 1, "quarantined_empty": 1}.items()
    good = track(job_of(dataset, units), result(2), retry_quarantined=["empty"])
    assert good.items() >= {"clips": 10, "quarantined": 0, "quarantined_empty": 0}.items()


def test_the_numbers_are_the_manifests(tmp_path):
    dataset = str(tmp_path)
    manifest, units = make_dataset(dataset, 20)
    metrics = track(job_of(dataset, units))
    assert (metrics["clips"], metrics["quarantined"]) == (manifest.num_clips, sum(manifest.quarantined.values()))
    assert read_manifest(dataset) == manifest


def test_a_unit_is_counted_for_prometheus(monkeypatch):
    recorded = Recorded(monkeypatch)
    with JobMetrics("ingest", "dataset") as metrics:
        count_for_prometheus(result(2, empty=1), metrics)
        count_for_prometheus(result(0, empty=2, too_short=1), metrics)
    assert recorded.counted() == {
        ("ingest_videos_total",): 6,
        ("ingest_clips_total",): 2,
        ("ingest_quarantined_videos_total", "empty"): 3,
        ("ingest_quarantined_videos_total", "too_short"): 1,
        ("ingest_stage_seconds_total", "decode"): 2.0,
        ("ingest_stage_seconds_total", "encode"): 4.0,
        ("job_ends_total", "done"): 1,
    }
