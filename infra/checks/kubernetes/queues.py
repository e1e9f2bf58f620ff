"""Kueue: that queues, quotas and what waits in them fit one another."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from infra.checks.fault import Fault
from infra.checks.kubernetes.ray_groups import groups
from infra.checks.tree import Tree

_LABEL = "kueue.x-k8s.io/queue-name"
_QUANTITY = re.compile(r"(?P<number>[0-9.]+)(?P<unit>m|[KMGT]i?)?")
_UNITS = {"": 1.0, "m": 1e-3, **{f"{unit}i": 2.0 ** (10 * (place + 1)) for place, unit in enumerate("KMGT")}} | {
    unit: 1e3 ** (place + 1) for place, unit in enumerate("KMGT")
}


def queue_names(tree: Tree) -> Iterator[Fault]:
    """Check that a queue's quota and its flavors are there, each flavor with every resource that its group covers."""
    flavors = {each.document["metadata"]["name"] for each in tree.sources if each.kind == "ResourceFlavor"}
    queues = {each.document["metadata"]["name"] for each in tree.sources if each.kind == "ClusterQueue"}
    for manifest in tree.sources:
        if manifest.kind == "LocalQueue" and (wanted := manifest.spec.get("clusterQueue")) not in queues:
            yield Fault(manifest.file, manifest.name, f"there is no ClusterQueue {wanted}", "name one of quota.yaml")
        if manifest.kind != "ClusterQueue":
            continue
        for group in manifest.spec.get("resourceGroups") or []:
            for flavor in group.get("flavors") or []:
                named = [resource.get("name") for resource in flavor.get("resources") or []]
                if flavor.get("name") not in flavors:
                    at = f"{manifest.name}, {flavor.get('name')}"
                    yield Fault(manifest.file, at, "there is no such ResourceFlavor", "add it, or name another")
                if named != group.get("coveredResources"):
                    at = f"{manifest.name}, {flavor.get('name')}"
                    yield Fault(manifest.file, at, f"it says {named}", f"say {group.get('coveredResources')}, in order")


def queued_jobs(tree: Tree) -> Iterator[Fault]:
    """Check that a RayJob in a queue begins suspended, keeps its size, and is bound to nodes of the quota."""
    labels = [each.spec.get("nodeLabels") or {} for each in tree.sources if each.kind == "ResourceFlavor"]
    for manifest in tree.manifests("RayJob"):
        if _LABEL not in (manifest.document.get("metadata") or {}).get("labels", {}):
            continue
        if not manifest.spec.get("suspend"):
            yield Fault(manifest.file, manifest.name, "it does not wait for its queue", "set spec.suspend: true")
        if (manifest.spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
            yield Fault(
                manifest.file, manifest.name, "Kueue refuses clusters that scale", "enableInTreeAutoscaling: false"
            )
        for group in groups(manifest):
            if not group.is_head and not group.spec.get("replicas"):
                yield group.fault("it has no pod, and no autoscaler adds one", "set replicas", at="replicas")
            if (group.pod.get("nodeSelector") or {}) not in labels:
                yield group.fault(
                    f"no ResourceFlavor has pool {group.pool!r}", "add one", at="template.spec.nodeSelector"
                )


def jobs_fit_quota(tree: Tree) -> Iterator[Fault]:
    """Check that a RayJob in a queue asks for no more of a kind of node than the quota has: it would wait for ever."""
    pools = {
        each.document["metadata"]["name"]: (each.spec.get("nodeLabels") or {}).get("node-pool")
        for each in tree.sources
        if each.kind == "ResourceFlavor"
    }
    quota = {
        (pools.get(flavor.get("name")), resource.get("name")): _amount(resource.get("nominalQuota"))
        for queue in tree.sources
        if queue.kind == "ClusterQueue"
        for group in queue.spec.get("resourceGroups") or []
        for flavor in group.get("flavors") or []
        for resource in flavor.get("resources") or []
    }
    for manifest in tree.manifests("RayJob"):
        if _LABEL not in (manifest.document.get("metadata") or {}).get("labels", {}):
            continue
        asked: defaultdict[tuple[str, str], float] = defaultdict(float)
        for group in groups(manifest):
            for resource, amount in group.requests.items():
                asked[group.pool, resource] += _amount(amount) * (1 if group.is_head else group.spec.get("replicas", 0))
        for (pool, resource), number in asked.items():
            if number > (most := quota.get((pool, resource), 0.0)):
                wrong = f"{number:g} {resource} of pool {pool}, of which there is {most:g}"
                yield Fault(manifest.file, manifest.name, wrong, "raise the quota, or lower replicas")


def _amount(quantity: Any) -> float:
    """Return what a quantity of Kubernetes such as 500m, 16Gi or 8 is in units."""
    match = _QUANTITY.fullmatch(str(quantity))
    return float(match["number"]) * _UNITS[match["unit"] or ""] if match else 0.0
