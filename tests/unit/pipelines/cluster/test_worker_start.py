"""What is told while workers start: how many are up, which resource the cluster lacks, and what they die of."""

import threading
from types import SimpleNamespace

import pytest

from pipelines.cluster import worker_start
from pipelines.cluster.worker_start import _state, _Workers

GPU = {"CPU": 1, "GPU": 1}


@pytest.fixture
def cluster(monkeypatch):
    """Sets the machines of a cluster and what is free of them."""

    def set_machines(machines, free):
        nodes = [{"Alive": True, "Resources": each} for each in machines]
        monkeypatch.setattr(worker_start.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"GPU": 8.0}}])
        monkeypatch.setattr(worker_start.ray, "available_resources", lambda: free)
        monkeypatch.setattr(worker_start, "last_death", lambda: "was ended by Ray, as its machine ran out of memory")

    return set_machines


@pytest.mark.parametrize(
    ("workers", "free", "told"),
    [
        (_Workers(2, 2, 0), {}, "all 2 render workers are up, at work on the first results"),
        # They hold the CPUs already: nothing is lacking.
        (_Workers(2, 1, 0), {"CPU": 0}, "1 of 2 render workers are up"),
        (_Workers(1, 1, 0), {"CPU": 1}, "1 of 2 render workers are up, waiting for GPU (0 of 1 free)"),
        (_Workers(0, 0, 0), {}, "0 of 2 render workers are up, waiting for CPU (0 of 4 free), GPU (0 of 1 free)"),
        (
            _Workers(2, 0, 3),
            {"CPU": 2, "GPU": 1},
            "0 of 2 render workers are up; 3 have died and are started anew, the last one was ended by Ray, as its "
            "machine ran out of memory",
        ),
        (None, {"CPU": 0, "GPU": 1}, "waiting for the first result, waiting for CPU (0 of 4 free)"),
    ],
)
def test_what_is_waited_for(cluster, workers, free, told):
    cluster([{"CPU": 2, "GPU": 1}, {"CPU": 2}], free)
    assert _state("render worker", 2, GPU, workers) == told


def test_what_is_counted_of_a_jobs_actors(monkeypatch):
    def actor(state, restarts, *, pid=7, name="MapWorker(MapBatches(Encode))"):
        return {"State": state, "NumRestarts": restarts, "Pid": pid, "ActorClassName": name}

    found = [
        actor("ALIVE", 1),
        actor("RESTARTING", 2, pid=0),
        actor("PENDING_CREATION", 0),
        actor("DEAD", 4),  # of a larger pool before
        actor("ALIVE", 8, name="_StatsActor"),
    ]
    monkeypatch.setattr(worker_start, "actors", lambda job_id: dict(enumerate(found)))
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(worker_start.ray, "get_runtime_context", lambda: context)
    assert worker_start._workers(("Decode", "Encode")) == _Workers(placed=2, up=1, deaths=3)


def test_of_a_worker_that_was_lost_with_its_machine_no_reason_is_told(cluster, monkeypatch):
    cluster([{"CPU": 2, "GPU": 1}], {"CPU": 2, "GPU": 1})
    monkeypatch.setattr(worker_start, "last_death", lambda: "")
    told = _state("render worker", 2, GPU, _Workers(2, 1, 1))
    assert told == "1 of 2 render workers are up; 1 has died and is started anew"


def test_a_machine_that_is_not_in_the_cluster(cluster):
    cluster([{"CPU": 8}, {"GPU": 1}], {"CPU": 8, "GPU": 1})
    assert _state("training worker", 1, GPU, _Workers(1, 0, 0)) == "0 of 1 training worker is up"
    assert (
        _state("training worker", 1, GPU, _Workers(1, 1, 0))
        == "the training worker is up, at work on the first results"
    )
    told = _state("render worker", 2, GPU, _Workers(0, 0, 0))
    assert told == "0 of 2 render workers are up: no machine of the cluster has 1 CPU and 1 GPU, waiting for one"


@pytest.mark.parametrize(
    ("workers", "seconds", "ended", "gives_up"),
    [
        (_Workers(2, 0, 40), 61, 20, True),
        (_Workers(0, 0, 0), 61, 200, True),
        # A shortage that may pass, and one that only some workers met.
        (_Workers(2, 0, 40), 59, 200, False),
        (_Workers(2, 0, 40), 61, 19, False),
        (_Workers(2, 1, 40), 61, 200, False),
        (None, 61, 200, False),
    ],
)
def test_a_job_ends_whose_workers_never_start_for_want_of_memory(monkeypatch, workers, seconds, ended, gives_up):
    monkeypatch.setattr(worker_start, "num_ended_for_memory", lambda since_s: ended)
    monkeypatch.setattr(worker_start, "last_death", lambda: "was ended by Ray, as its machine ran out of memory")
    watch = worker_start._Watch(
        worker_start._Wanted("ingest worker", 2, {}, (), "num_encoders"), threading.Event(), None
    )
    monkeypatch.setattr(worker_start.time, "time", lambda: watch._since_s + seconds)
    reason = watch._in_vain(workers)
    assert (reason is not None) == gives_up
    if reason:
        assert str(reason) == (
            f"no ingest worker can start: Ray ended {ended} processes in {seconds} s for want of memory, the last one "
            "was ended by Ray, as its machine ran out of memory; lower num_encoders, or free memory"
        )
