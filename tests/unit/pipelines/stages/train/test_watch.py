import json
import logging

import pytest

from animatediff import storage
from animatediff.errors import UserError
from pipelines.settings import TrainJobConfig
from pipelines.stages.train.run import RunState
from pipelines.stages.train.validate import keep_best
from pipelines.stages.train.watch import RunWatcher


class Log:
    """Stands for a tracker: what was logged, and a run that begins late."""

    def __init__(self, run_id=None):
        self.run_id = run_id
        self.metrics, self.files = [], {}

    def log_metrics(self, step, metrics):
        self.metrics.append((step, metrics))

    def log_file(self, name, content):
        self.files[name] = content


@pytest.fixture
def config(tmp_path):
    output = str(tmp_path / "run")
    return TrainJobConfig(run_name="r", dataset_uri="d", base="b", output_uri=output, train={"num_steps": 30})


def watch(config, log):
    return RunWatcher(config, RunState(dataset_digest="d"), log)


def step(number, loss=1.0):
    return {"step": number, "loss": loss, "clips_per_s": 2.0}


def validated(number, *files, **found):
    return {"validated": number, "files": list(files), "errors": []} | found


def test_a_validation_that_an_earlier_job_began_may_come_first(config, caplog):
    log = Log()
    entries = [validated(10, val_loss=0.5), {"step": 10, "num_workers": 1}, step(20), step(30, 0.5)]
    with caplog.at_level(logging.INFO):
        run = watch(config, log).follow(iter(entries))
    assert (10, {"val_loss": 0.5}) in log.metrics
    assert (run.num_steps, run.first_loss, run.loss) == (30, 1.0, 0.75)
    assert "continuing after step 10" in caplog.text


@pytest.mark.parametrize(
    ("told", "before", "after", "line"),
    [
        ([], 2, 2, "WARNING the workers failed and started again after step 10"),
        ([], 2, 1, "WARNING the workers failed and started again after step 10, 1 in place of 2"),
        ([], 1, 2, "INFO the cluster has grown: the workers started again after step 10, 2 in place of 1"),
        ([{"drained": 10}], 2, 2, "INFO the workers left the machine and started again after step 10"),
        ([{"drained": 10}], 2, 1, "INFO the workers left the machine and started again after step 10, 1 in place of 2"),
    ],
)
def test_why_workers_started_again_is_told(config, caplog, told, before, after, line):
    again = [{"step": 10, "num_workers": after}, step(20), {"step": 20, "num_workers": after}, step(30)]
    with caplog.at_level(logging.INFO):
        watch(config, Log()).follow(iter([{"step": 0, "num_workers": before}, step(10), *told, *again]))
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert [each for each in lines if "started again" in each] == [
        line,
        "WARNING the workers failed and started again after step 20",  # a notice is for one start alone
    ]
    assert sum("will be taken away: saving after step 10" in each for each in lines) == len(told)


def test_workers_that_never_began_are_one_line(config):
    with pytest.raises(UserError, match="ended before its workers began"):
        watch(config, Log()).follow(iter([validated(10)]))


def test_storage_that_fails_for_a_while_ends_no_run(config, caplog, monkeypatch):
    log = Log()
    real = storage.write_bytes, storage.read_bytes

    def away(*_):
        raise OSError("the bucket is away")

    def entries():
        yield {"step": 0, "num_workers": 1}
        monkeypatch.setattr(storage, "write_bytes", away)
        monkeypatch.setattr(storage, "read_bytes", away)
        yield step(10)
        yield {"skipped": 11, "clip_ids": ["a"]}
        yield validated(10, "s3://bucket/0.mp4", val_loss=0.25)
        monkeypatch.setattr(storage, "write_bytes", real[0])
        monkeypatch.setattr(storage, "read_bytes", real[1])
        yield {"skipped": 25, "clip_ids": ["b"]}
        yield step(30)

    run = watch(config, log).follow(entries())
    assert (run.num_steps, run.first_loss) == (30, 1.0)
    assert (10, {"val_loss": 0.25}) in log.metrics
    noted = storage.read_bytes(storage.join(config.output_uri, "skipped.jsonl")).decode().splitlines()
    assert [json.loads(line)["step"] for line in noted] == [25]
    assert caplog.text.count("the bucket is away") == 3


def test_what_a_validation_could_not_do_is_told_beside_what_it_could(config, caplog):
    log = Log()
    entry = validated(10, val_loss=0.5, left_out=["clip-7"]) | {"errors": ["the base has no VAE"]}
    watch(config, log).follow(iter([{"step": 0, "num_workers": 1}, entry, step(30)]))
    assert (10, {"val_loss": 0.5}) in log.metrics
    assert "the validation of step 10 is not complete: the base has no VAE" in caplog.text
    assert "left out of the mean: clip-7" in caplog.text


def test_a_tracked_run_that_begins_late_is_known_to_the_next_job(config):
    log = Log()

    def entries():
        yield {"step": 0, "num_workers": 1}
        yield step(10)
        log.run_id = "late"
        yield step(20)
        state = json.loads(storage.read_bytes(storage.join(config.output_uri, "run.json")))
        assert (state["mlflow_run_id"], state["first_loss"]) == ("late", 1.0)
        yield step(30)

    assert watch(config, log).follow(entries()).mlflow_run_id == "late"


def test_the_best_weights_are_those_of_the_lowest_loss_by_the_same_measure(tmp_path):
    def keep(step, loss, holdout=0.1):
        weights = tmp_path / "weights"
        weights.write_bytes(str(step).encode())
        keep_best(str(tmp_path), "best", weights, {"step": step, "val_loss": loss, "measure": {"holdout": holdout}})
        file = tmp_path / "best"
        return file.read_bytes() if file.exists() else None

    nan = float("nan")
    losses = [(1, nan), (2, 0.5), (3, nan), (4, 0.6), (5, 0.5), (6, 0.4)]
    assert [keep(step, loss) for step, loss in losses] == [None, b"2", b"2", b"2", b"2", b"6"]
    assert keep(7, 0.9, holdout=0.2) == b"7"
    assert json.loads((tmp_path / "best.json").read_text())["step"] == 7
