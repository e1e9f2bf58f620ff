"""RayJobs and RayClusters: what KubeRay would take, and what would cost a night or an account."""

from collections.abc import Iterator

from infra.checks.fault import Fault
from infra.checks.json_schema import of_kind, schema
from infra.checks.kubernetes.ray_groups import GPU, KINDS, all_groups, cluster, groups
from infra.checks.tree import Tree

GRACE_S = 60
"""What a pod is given after SIGTERM: a job takes up to 30 s."""
_SPOT = "spot"


def kuberay_schema(tree: Tree) -> Iterator[Fault]:
    """Check that a RayJob or RayCluster has no field that KubeRay 1.7 does not know, and none of another type."""
    for manifest in tree.manifests(*KINDS):
        yield from of_kind(manifest, schema("kuberay.json"))


def head_without_work(tree: Tree) -> Iterator[Fault]:
    """Check that the head has num-cpus 0, so that no work takes the memory of drivers and of Ray itself."""
    for group in all_groups(tree):
        if group.is_head and (group.spec.get("rayStartParams") or {}).get("num-cpus") != "0":
            yield group.fault("work can be placed on the head", 'set num-cpus: "0"', at="rayStartParams")


def head_on_demand(tree: Tree) -> Iterator[Fault]:
    """Check that the head is on no spot node: the job is lost with it."""
    for group in all_groups(tree):
        if group.is_head and ("spot" in group.pool or group.tolerates(_SPOT)):
            yield group.fault("the head may be placed on a spot node", "use the pool cpu", at="template.spec")


def gpu_requests_equal_limits(tree: Tree) -> Iterator[Fault]:
    """Check that pods with GPUs reserve all that they may take, or the node's other pods end them for memory."""
    for group in all_groups(tree):
        if group.num_gpus and group.requests != group.limits:
            yield group.fault(
                "requests and limits differ", "make them equal", at="template.spec.containers[0].resources"
            )


def gpu_toleration(tree: Tree) -> Iterator[Fault]:
    """Check that pods with GPUs tolerate the taint of nodes with GPUs, or they are never placed."""
    for group in all_groups(tree):
        if group.num_gpus and not group.tolerates(GPU):
            yield group.fault(f"no toleration of {GPU}", "add it", at="template.spec.tolerations")


def spot_toleration(tree: Tree) -> Iterator[Fault]:
    """Check that pods bound to spot nodes tolerate their taint, and others do not."""
    for group in all_groups(tree):
        if ("spot" in group.pool) != group.tolerates(_SPOT):
            yield group.fault(f"pool {group.pool} and the toleration of {_SPOT} do not fit", "have both or none")


def spot_first(tree: Tree) -> Iterator[Fault]:
    """Check that groups on spot nodes have a higher priority, by which Ray's autoscaler goes, than those on demand."""
    for manifest in tree.manifests(*KINDS):
        with_gpus = [group for group in groups(manifest) if group.num_gpus and not group.is_head]
        for spot in (group for group in with_gpus if "spot" in group.pool):
            for other in (group for group in with_gpus if "spot" not in group.pool):
                if spot.spec.get("priority", 0) <= other.spec.get("priority", 0):
                    yield spot.fault(f"priority not above that of {other.name}", "raise it", at="priority")


def replicas_in_order(tree: Tree) -> Iterator[Fault]:
    """Check that a group has minReplicas <= replicas <= maxReplicas."""
    for group in all_groups(tree):
        low, number, high = (group.spec.get(key, 0) for key in ("minReplicas", "replicas", "maxReplicas"))
        if not group.is_head and not low <= number <= high:
            yield group.fault(f"{low} <= {number} <= {high} does not hold", "minReplicas <= replicas <= maxReplicas")


def gpus_scale_to_zero(tree: Tree) -> Iterator[Fault]:
    """Check that groups with GPUs have no pod while there is nothing to do, where the cluster changes its size."""
    for group in all_groups(tree):
        _, spec = cluster(group.manifest)
        if group.num_gpus and spec.get("enableInTreeAutoscaling") and group.spec.get("minReplicas"):
            yield group.fault("GPUs are paid for while nothing runs", "set minReplicas: 0", at="minReplicas")


def bounded_jobs(tree: Tree) -> Iterator[Fault]:
    """Check that a RayJob has deadlines, retries, and takes its cluster away when it has ended."""
    for manifest in tree.manifests("RayJob"):
        if "rayClusterSpec" not in manifest.spec:
            continue
        for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"):
            if not manifest.spec.get(field):
                yield Fault(
                    manifest.file, manifest.name, f"no spec.{field}", "say how long, or how often, it may go on"
                )
        if not manifest.spec.get("shutdownAfterJobFinishes"):
            yield Fault(manifest.file, manifest.name, "its cluster stays", "set spec.shutdownAfterJobFinishes: true")


def token_authentication(tree: Tree) -> Iterator[Fault]:
    """Check that a cluster asks for a token, which a Secret of ours has."""
    for manifest in tree.manifests(*KINDS):
        place, spec = cluster(manifest)
        options = spec.get("authOptions") or {}
        if options.get("mode") != "token" or not options.get("secretName"):
            at = f"{manifest.name}, {place}.authOptions"
            yield Fault(manifest.file, at, "whoever reaches it may run code", "mode: token, with a secretName")


def grace_period(tree: Tree) -> Iterator[Fault]:
    """Check that Ray's pods have the seconds after SIGTERM that a job needs to save."""
    for group in all_groups(tree):
        if group.pod.get("terminationGracePeriodSeconds", 30) < GRACE_S:
            yield group.fault(f"less than {GRACE_S} s to stop", f"set {GRACE_S}", at="template.spec")
