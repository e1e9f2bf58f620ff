"""What the node of the tests' Ray exports to Prometheus."""

import time

import ray
import requests
from prometheus_client.parser import text_string_to_metric_families

from pipelines.tracking.metrics import METRICS

_OWN_LABELS = {label for metric in METRICS for label in metric.tags}
_PATIENCE_S = 60.0  # Ray's processes report every 10 s


def exported(run):
    """The metrics of a job that has just ended: {(name, own labels' values...): value}, zeros left out.

    Names are without what all have in common.
    """
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        found = _series(requests.get(url, timeout=10).text, str(run))
        if any(name == "job_ends_total" for name, *_ in found):
            return found
        time.sleep(0.5)
    raise AssertionError(f"no end of {run} was exported")


def _series(text, run):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("run") == run and sample.value > 1e-300:
                own = (value for label, value in sample.labels.items() if label in _OWN_LABELS)
                found[sample.name.removeprefix("ray_animatediff_"), *own] = sample.value
    return found
