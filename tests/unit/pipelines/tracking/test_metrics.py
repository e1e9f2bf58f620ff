"""The table of metrics, and what a job's metrics are while it is at work and after; a stub in the place of Ray's."""

import re

import pytest

from pipelines.tracking import metrics as tracking
from pipelines.tracking.metrics import METRICS, JobMetrics

JOBS = ("curate", "ingest", "train", "animate", "score")
UNITS = {"counter": "_total", "gauge": ("_ratio", "_seconds", "_bytes", "_up", "_step", "_loss")}


class Recorded:
    """Takes what a job tells; `told` has the series by name and labels."""

    def __init__(self, monkeypatch):
        self.told, self.gauges_set = {}, []
        record = self

        class Ours:
            def __init__(self, name, description, tag_keys):
                assert description
                self._name, self._keys = name, tag_keys

            def set_default_tags(self, tags):
                self._tags = tags

            def _series(self, tags):
                labels = self._tags | (tags or {})
                assert set(labels) == set(self._keys)
                return self._name, *(labels[key] for key in self._keys if key not in ("job_name", "run"))

        class Counter(Ours):
            def inc(self, value, tags=None):
                assert value > 0  # as Ray's
                series = self._series(tags)
                record.told[series] = record.told.get(series, 0.0) + value

        class Gauge(Ours):
            def set(self, value, tags=None):
                record.gauges_set.append(self._name)
                record.told[self._series(tags)] = value

        monkeypatch.setattr(tracking, "Counter", Counter)
        monkeypatch.setattr(tracking, "Gauge", Gauge)

    def counted(self):
        """What is more than the zero that every counter begins with, without the names' beginning."""
        return {
            tuple(part.removeprefix("animatediff_") for part in series): value
            for series, value in self.told.items()
            if series[0].endswith("_total") and value > 1e-300
        }


@pytest.fixture
def recorded(monkeypatch):
    return Recorded(monkeypatch)


def test_names_follow_the_conventions_of_prometheus():
    for metric in METRICS:
        assert re.fullmatch(r"animatediff_[a-z_]+", metric.name)
        assert metric.name.endswith(UNITS[metric.kind]), metric.name
        assert metric.meaning.endswith(".")
        assert "job" not in metric.tags  # Prometheus' own
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_every_metric_is_some_jobs_and_the_series_of_a_run_are_few():
    for job in JOBS:
        of_job = [metric for metric in METRICS if metric.is_of(job)]
        series = 0
        for metric in of_job:
            number = 1
            for values in metric.tags.values():
                number *= len(values)
            series += number
        assert len(of_job) >= 4
        assert series < 100
    assert all(any(metric.is_of(job) for job in JOBS) for metric in METRICS)


def test_counters_begin_at_what_rounding_takes_for_zero(recorded):
    """Else the first skipped step or failed item would be no increase to Prometheus."""
    with JobMetrics("animate", "out") as metrics:
        assert {series for series in recorded.told if "animate_items" in series[0]} == {
            ("animatediff_animate_items_total", status) for status in ("ok", "failed", "invalid")
        }
        metrics.count("animatediff_animate_items_total", 3, status="failed")
        metrics.count("animatediff_animate_items_total", 0, status="ok")
    assert recorded.told["animatediff_animate_items_total", "failed"] == 3
    assert recorded.counted() == {("animate_items_total", "failed"): 3, ("job_ends_total", "done"): 1}


def run_into(error, metrics):
    with metrics:
        raise error


@pytest.mark.parametrize(
    ("error", "has_signal", "outcome"),
    [
        (ValueError("no"), False, "failed"),
        (KeyboardInterrupt(), True, "stopped"),
        # What a signal breaks off fails in many ways; and a thread that finds the lease lost ends the main one so.
        (ValueError("Ray is gone"), True, "stopped"),
        (KeyboardInterrupt(), False, "failed"),
    ],
)
def test_an_end_is_counted_by_how_it_came(recorded, monkeypatch, error, has_signal, outcome):
    monkeypatch.setattr(tracking.interrupts, "signal_came", lambda: has_signal)
    with pytest.raises(type(error)):
        run_into(error, JobMetrics("train", "out"))
    assert recorded.counted() == {("job_ends_total", outcome): 1}


def test_gauges_are_repeated_while_the_job_is_at_work_and_not_after(recorded, monkeypatch):
    monkeypatch.setattr(tracking, "_REPEAT_S", 0.001)
    with JobMetrics("train", "out") as metrics:
        metrics.set("animatediff_train_loss", 0.5)
        while recorded.gauges_set.count("animatediff_train_loss") < 3:
            pass
        repeater = metrics._repeater
    assert not repeater.is_alive()
    assert recorded.told["animatediff_train_loss",] == 0.5


def test_a_run_is_its_folder_without_secrets(recorded):
    metrics = JobMetrics("ingest", "s3://key:secret@bucket/latents")
    assert metrics._labels == {"job_name": "ingest", "run": "s3://bucket/latents"}
