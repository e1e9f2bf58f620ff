"""A machine that is drained, as a spot machine before it is reclaimed: the workers on it save, and others go on."""

import logging
import threading
import time

import pytest
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

from pipelines import train
from pipelines.settings import TrainJobConfig
from tests.unit.data.loading.test_loader import write_dataset

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WEIGHTS, EVERY = "motion_module.safetensors", 20


@pytest.fixture
def two_workers(monkeypatch):
    """A head without CPUs, and two machines with one each."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def drain_busy_node(cluster, nodes, output, seen):
    """Drain the machine that trains once it has, wait for the checkpoint that follows, and take the machine away."""
    checkpoints = output / "checkpoints"
    while not any(checkpoints.glob("step-*/state.json")):
        time.sleep(0.1)
    workers = (actor for actor in actors().values() if "RayTrainWorker" in actor["ActorClassName"])
    node_id = next(worker["Address"]["NodeID"] for worker in workers if worker["State"] == "ALIVE")
    before, began = set(checkpoints.glob("step-*")), time.monotonic()
    client = ray._raylet.GcsClient(address=cluster.address)
    deadline_ms = int(time.time() * 1000) + 30_000
    seen["accepted"] = client.drain_node(node_id, DRAIN_NODE_REASON_PREEMPTION, "reclaimed", deadline_ms)[0]
    while not (new := [path for path in set(checkpoints.glob("step-*")) - before if _is_extra(path)]):
        time.sleep(0.05)
    seen["step"], seen["seconds"] = int(new[0].name[5:]), time.monotonic() - began
    time.sleep(2)  # its upload, and Ray's list
    cluster.remove_node(next(node for node in nodes if node.node_id == node_id))


def _is_extra(path):
    return int(path.name[5:]) % EVERY != 0 and (path / "state.json").exists()


def test_the_workers_of_a_drained_machine_save_first(two_workers, base, tmp_path, monkeypatch, caplog):
    cluster, nodes = two_workers
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    write_dataset(tmp_path / "dataset", shards=(9, 8), shapes=((4, 4, 16, 16),))
    outputs = {name: tmp_path / name for name in ("drained", "straight")}
    seen = {}
    for name, output in outputs.items():
        config = TrainJobConfig(
            run_name=name,
            dataset_uri=str(tmp_path / "dataset"),
            base=base,
            output_uri=str(output),
            train={"num_steps": 3 * EVERY, "batch_size": 2, "checkpoint_every": EVERY},
            scaling={"num_workers": 1, "cpus_per_worker": 1},
            sample={"num_inference_steps": 2},
            num_checkpoints=20,
        )
        if name == "drained":
            arguments = (cluster, nodes, output, seen)
            threading.Thread(target=drain_busy_node, args=arguments, daemon=True).start()
        with caplog.at_level(logging.INFO):
            assert train.main(config).num_steps == 3 * EVERY
        print(name, seen)  # noqa: T201
    assert seen["accepted"]
    assert "a worker's machine will be taken away: saving after step" in caplog.text
    assert "the workers left the machine and started again after step" in caplog.text
    assert "the workers failed" not in caplog.text
    assert (outputs["drained"] / WEIGHTS).read_bytes() == (outputs["straight"] / WEIGHTS).read_bytes()
