"""Kueue: that queues, quotas and what waits in them fit one another."""

from collections.abc import Iterator

from infra.checks.fault import Fault
from infra.checks.kubernetes.ray_groups import groups
from infra.checks.tree import Tree

_LABEL = "kueue.x-k8s.io/queue-name"


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
