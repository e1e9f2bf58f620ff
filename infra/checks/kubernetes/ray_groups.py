"""The groups of pods that a RayJob or a RayCluster asks for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.checks.fault import Fault
from infra.checks.tree import Manifest, Tree

KINDS = ("RayJob", "RayCluster")
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Group:
    """Pods of one kind: the head, or a group of workers."""

    manifest: Manifest
    place: str
    """Where it stands in its object."""
    spec: dict[str, Any]
    is_head: bool

    @property
    def name(self) -> str:
        """Its groupName; of the head, `head`."""
        return "head" if self.is_head else str(self.spec.get("groupName", ""))

    @property
    def pod(self) -> dict[str, Any]:
        """The spec of its pods."""
        return (self.spec.get("template") or {}).get("spec") or {}

    @property
    def container(self) -> dict[str, Any]:
        """Ray's container, which KubeRay takes to be the first."""
        return next(iter(self.pod.get("containers") or []), {})

    @property
    def requests(self) -> dict[str, Any]:
        """Resources that a pod reserves."""
        return (self.container.get("resources") or {}).get("requests") or {}

    @property
    def limits(self) -> dict[str, Any]:
        """Resources that a pod may take."""
        return (self.container.get("resources") or {}).get("limits") or {}

    @property
    def num_gpus(self) -> int:
        """GPUs of a pod."""
        return int(self.limits.get(GPU, self.requests.get(GPU, 0)))

    @property
    def pool(self) -> str:
        """The node pool that it is bound to."""
        return str((self.pod.get("nodeSelector") or {}).get("node-pool", ""))

    def tolerates(self, taint: str) -> bool:
        """Whether its pods may be placed on nodes with a taint."""
        return any(each.get("key") == taint for each in self.pod.get("tolerations") or [])

    def fault(self, wrong: str, remedy: str, *, at: str = "") -> Fault:
        """Return a fault of the group, or of a field of it."""
        place = f"{self.place}.{at}" if at else self.place
        return Fault(self.manifest.file, f"{self.manifest.name}, {place} ({self.name})", wrong, remedy)


def cluster(manifest: Manifest) -> tuple[str, dict[str, Any]]:
    """Return where the cluster stands in a RayJob or RayCluster, and its spec."""
    if manifest.kind == "RayJob":
        return "spec.rayClusterSpec", manifest.spec.get("rayClusterSpec") or {}
    return "spec", manifest.spec


def groups(manifest: Manifest) -> Iterator[Group]:
    """Yield an object's groups, the head first."""
    place, spec = cluster(manifest)
    if head := spec.get("headGroupSpec"):
        yield Group(manifest, f"{place}.headGroupSpec", head, is_head=True)
    for index, worker in enumerate(spec.get("workerGroupSpecs") or []):
        yield Group(manifest, f"{place}.workerGroupSpecs[{index}]", worker, is_head=False)


def all_groups(tree: Tree) -> Iterator[Group]:
    """Yield the groups of all RayJobs and RayClusters: as they are written, then as the overlays make them."""
    for manifest in tree.manifests(*KINDS):
        yield from groups(manifest)
