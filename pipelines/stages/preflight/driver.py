"""The preflight on its driver: every node is asked what the job needs of it, and the answers are one table."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from animatediff import storage
from animatediff.config import Config
from animatediff.errors import UserError
from pipelines.cluster.runtime import connect, num_gpus
from pipelines.outputs.folder_lease import absent_folders
from pipelines.outputs.output_folder import check_output, check_results
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from pipelines.stages.preflight.checks import TOKEN
from pipelines.stages.preflight.needs import Needs, needs_of
from pipelines.stages.preflight.node import CHECK_S, Node, versions
from pipelines.stages.preflight.table import Row, render
from pipelines.terminal.failures import describe_failure
from pipelines.tracking.tracker import open_client, reason, tracking_uri

logger = logging.getLogger(__name__)

_JOBS: dict[type[Config], Any] = {
    CurateConfig: "curate",
    IngestConfig: "ingest",
    TrainJobConfig: "train",
    AnimateConfig: "animate",
}
# A process that imports torch starts in 10 s, on a node that is busy in a minute.
_START_S = 90.0
# A signature of S3 is refused after 15 minutes, and a lease is nobody's after one; clocks that are kept are within 0.1.
_MOST_SKEW_S = 5.0
_CLOCK_TRIES = 3
_DRIVER = "driver"
_SLOW = "look at the node's Ray logs and its load, or take it out of the cluster"


def preflight(config: Config) -> None:
    """Check everything and tell it; see `pipelines.preflight.main`."""
    needs = needs_of(config)
    connect()
    nodes = {node["NodeID"]: _name(node) for node in ray.nodes() if node["Alive"]}
    logger.info("preflight of %s on %d nodes", needs.output_uri, len(nodes))
    with _token(needs.output_uri) as output_rows:
        rows = [*_on_driver(config, needs), *output_rows, *_on_nodes(nodes, needs)]
    sys.stdout.write(render(rows) + "\n")
    if num_faults := sum(row.remedy is not None for row in rows):
        raise UserError(f"preflight: {num_faults} faults, in the table above with their nodes and remedies")
    logger.info("preflight: all is well on %d nodes", len(nodes))


def _name(node: dict[str, Any]) -> str:
    """Return a node's address, and the begin of its id where several share one."""
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})"


@contextmanager
def _token(output_uri: str) -> Iterator[list[Row]]:
    """Write the driver's file, which the nodes look for; nothing of it stays."""
    made, uri, rows = absent_folders(output_uri), storage.join(output_uri, TOKEN), list[Row]()
    try:
        storage.write_bytes(uri, b"")
    except UserError as error:
        rows.append(Row("output", _DRIVER, str(error), "name an output_uri that can be written to"))
    try:
        yield rows
    finally:
        if not rows:
            storage.delete(uri)
        for folder in made:
            with suppress(OSError):  # it was not made, or something else is in it now
                folder.rmdir()


def _on_driver(config: Config, needs: Needs) -> Iterator[Row]:
    """Yield what only the driver has to do with."""
    try:
        if isinstance(config, ScoreConfig):
            check_results(needs.output_uri)
        else:
            check_output(needs.output_uri, _JOBS[type(config)])
        yield Row("folder", _DRIVER, "new, or this job's from before")
    except UserError as error:
        yield Row("folder", _DRIVER, str(error), "choose another output_uri")
    try:
        open_client().search_experiments(max_results=1)
        yield Row("MLflow", _DRIVER, tracking_uri())
    except Exception as error:  # of MLflow's, of its database's or of the network's
        remedy = "start it, or mend MLFLOW_TRACKING_URI and its credentials"
        yield Row("MLflow", _DRIVER, f"{tracking_uri()} cannot be used: {reason(error)}", remedy)
    if needs.use_gpu and not num_gpus():
        yield Row("GPU", _DRIVER, "use_gpu is set, and no node has one yet: the job waits until there is one")


def _on_nodes(nodes: dict[str, str], needs: Needs) -> list[Row]:
    own, asked = versions(), {}
    for node_id, name in nodes.items():
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # PyTorch is to see the GPUs that other jobs have taken as well.
        environment = {"env_vars": {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "OMP_NUM_THREADS": "1"}}
        # Two calls at a time: the clock is asked while a check may hang.
        options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": here, "runtime_env": environment}
        asked[name] = ray.remote(**options)(Node).remote(name)
    # All start at once; the clocks are read when each is up, so that no start is taken for a skew.
    answers = {name: (actor.versions.remote(), actor.check.remote(needs)) for name, actor in asked.items()}
    deadline = time.monotonic() + _START_S + CHECK_S
    rows: list[Row] = []
    for name, (found, checked) in answers.items():
        try:
            rows.append(_compared(name, own, ray.get(found, timeout=max(1.0, deadline - time.monotonic()))))
            rows.append(_clock(name, asked[name]))
            rows += ray.get(checked, timeout=max(1.0, deadline - time.monotonic()))
        except GetTimeoutError:
            rows.append(Row("answer", name, f"none within {_START_S + CHECK_S:.0f} s", _SLOW))
        except RayError as error:
            rows.append(Row("answer", name, describe_failure(error), f"install the driver's image there; {_SLOW}"))
        ray.kill(asked[name])
    return rows


def _compared(name: str, own: dict[str, str], found: dict[str, str]) -> Row:
    differing = [f"{key} {found.get(key)} (driver: {value})" for key, value in own.items() if found.get(key) != value]
    if differing:
        return Row("code", name, ", ".join(differing), "give all nodes and the driver one image, and no other code")
    return Row("code", name, ", ".join(f"{key} {value}" for key, value in own.items()))


def _clock(name: str, node: ActorHandle) -> Row:
    """Compare a node's clock with this machine's, by the quickest of a few answers."""
    skews = []
    for _ in range(_CLOCK_TRIES):
        before = time.time()
        there = ray.get(node.clock.remote(), timeout=CHECK_S)
        after = time.time()
        skews.append((after - before, there - (before + after) / 2))
    wait_s, skew_s = min(skews)
    if abs(skew_s) - wait_s / 2 > _MOST_SKEW_S:
        return Row("clock", name, f"{skew_s:+.1f} s from the driver's", "keep the machines' clocks by NTP")
    return Row("clock", name, f"within {_MOST_SKEW_S:g} s of the driver's")
