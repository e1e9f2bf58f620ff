"""What a training run exports, read off the entries of its workers."""

from types import SimpleNamespace

from animatediff.training.settings import TrainingLoopConfig
from pipelines.stages.train.watch import counted_for_prometheus
from pipelines.tracking.metrics import JobMetrics
from tests.unit.pipelines.tracking.test_metrics import Recorded

GAUGES = "animatediff_train_"


def measured(step, **changes):
    return {"step": step, "loss": 0.5, "data_wait": 0.25, "clips_per_s": 2.0, "peak_memory_gb": 2.0} | changes


def export(monkeypatch, *entries, answers=True):
    recorded = Recorded(monkeypatch)
    settings, tracker = TrainingLoopConfig(num_steps=40, batch_size=4), SimpleNamespace(answers=answers)
    with JobMetrics("train", "run") as metrics:
        passed = list(counted_for_prometheus(iter(entries), settings, tracker, metrics))
    return recorded, passed


def test_steps_and_clips_are_those_since_the_last_entry_of_this_start(monkeypatch):
    entries = [{"step": 10.0}, measured(15.0), measured(20.0), {"step": 16.0}, measured(20.0, loss=0.25)]
    recorded, passed = export(monkeypatch, *entries)
    assert passed == entries
    assert recorded.counted() == {
        ("train_steps_total",): 14,
        ("train_clips_total",): 56,
        ("train_data_wait_seconds_total",): 0.25 * 56 / 2,
        ("train_restarts_total",): 1,
        ("job_ends_total", "done"): 1,
    }
    told = recorded.told
    assert (told[GAUGES + "step",], told[GAUGES + "loss",]) == (20, 0.25)
    assert told[GAUGES + "peak_memory_bytes",] == 2e9
    assert told["animatediff_job_progress_ratio",] == 0.5


def test_skipped_steps_are_told_apart_by_who_is_to_blame(monkeypatch):
    skips = [{"skipped": 2, "clip_ids": []}, {"skipped": 3, "clip_ids": ["a", "b"]}, {"skipped": 4, "clip_ids": ["a"]}]
    recorded, passed = export(monkeypatch, {"step": 0.0}, *skips)
    assert passed[1:] == skips
    counted = recorded.counted()
    assert counted["train_skipped_steps_total", "not_finite"] == 2
    assert counted["train_skipped_steps_total", "loss_scale"] == 1


def test_a_checkpoint_is_young_when_the_training_begins_and_when_one_is_whole(monkeypatch):
    times = iter([100.0, 200.0, 300.0, 400.0, 500.0, 600.0])
    monkeypatch.setattr("pipelines.stages.train.watch.time", SimpleNamespace(time=lambda: next(times)))
    recorded, passed = export(monkeypatch, {"step": 0.0}, measured(5.0), {"checkpoint": 5}, measured(10.0))
    assert [entry for entry in passed if "checkpoint" in entry] == []
    assert recorded.told[GAUGES + "checkpoint_timestamp_seconds",] == 200.0


def test_a_validation_of_an_earlier_job_may_come_first_and_mlflow_may_be_away(monkeypatch):
    recorded, _ = export(monkeypatch, {"validated": 5, "val_loss": 0.75}, {"step": 5.0}, answers=False)
    assert recorded.told[GAUGES + "validation_loss",] == 0.75
    assert recorded.told["animatediff_mlflow_up",] == 0
