"""Objects of Kubernetes itself, pods of Ray's objects included, and that what they name is there."""

from collections.abc import Iterable, Iterator
from typing import Any

import kubernetes_validate
from kubernetes_validate import SchemaNotFoundError, ValidationError

from infra.checks.fault import Fault
from infra.checks.json_schema import of_kind, schema
from infra.checks.kubernetes.ray_groups import KINDS, groups
from infra.checks.tree import Manifest, Tree

_VERSION = "1.34"
"""The oldest Kubernetes that the manifests are for."""
_MAX_PORT_NAME = 15
_OWN = ("ray.io/", "kueue.x-k8s.io/", "monitoring.coreos.com/")


def kustomize_builds(tree: Tree) -> Iterator[Fault]:
    """Check that kustomize can build each kustomization."""
    for folder, document in tree.kustomizations.items():
        if document.get("kind") == "Component":  # built as part of an overlay
            continue
        if isinstance(built := tree.build(folder), str):
            yield Fault(f"{folder}/kustomization.yaml", "", built, f"kubectl kustomize {folder} has to pass")


def kubernetes_schema(tree: Tree) -> Iterator[Fault]:
    """Check that an object of Kubernetes itself has no field that it does not know, and none of another type."""
    for manifest in tree.manifests():
        document = manifest.document
        if not (document.get("apiVersion") and document.get("kind")):
            yield Fault(manifest.file, manifest.name, "no apiVersion or no kind", "every object has both")
        elif not str(document["apiVersion"]).startswith(_OWN):
            yield from _invalid(manifest.file, manifest.name, document)


def pod_templates(tree: Tree) -> Iterator[Fault]:
    """Check that the pods that Ray's objects ask for have no field that Kubernetes does not know."""
    for manifest in tree.manifests(*KINDS):
        for group in groups(manifest):
            template = {"metadata": {}, **(group.spec.get("template") or {})}
            wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "any"}, "template": template}
            yield from _invalid(manifest.file, f"{manifest.name}, {group.place}", wrapped)


def _invalid(name: str, place: str, document: dict[str, Any]) -> Iterator[Fault]:
    try:
        kubernetes_validate.validate(document, _VERSION, strict=True)
    except ValidationError as error:
        at = ".".join(str(part) for part in error.path)
        yield Fault(name, f"{place}, {at}" if at else place, error.message, f"Kubernetes {_VERSION} does not take it")
    except SchemaNotFoundError:
        yield Fault(
            name, place, f"no {document['kind']} in {document['apiVersion']}", f"Kubernetes {_VERSION} has none"
        )


def other_schemas(tree: Tree) -> Iterator[Fault]:
    """Check that objects of Kueue and of Prometheus's operator have fields that this project knows, and no others."""
    for manifest in tree.manifests():
        yield from of_kind(manifest, schema("other_kinds.yaml"))


def port_names(tree: Tree) -> Iterator[Fault]:
    """Check that a port of a container has a name, of 15 characters at most."""
    for manifest, place, pod in _pods(tree):
        for container in pod.get("containers") or []:
            for port in container.get("ports") or []:
                name = port.get("name", "")
                if not 0 < len(name) <= _MAX_PORT_NAME:
                    at = f"{manifest.name}, {place}, port {port.get('containerPort')}"
                    yield Fault(manifest.file, at, f"its name {name!r} has {len(name)} characters", "1 to 15")


def no_root(tree: Tree) -> Iterator[Fault]:
    """Check that no pod runs as root, and no container of it can become more than it is."""
    for manifest, place, pod in _pods(tree):
        context = pod.get("securityContext") or {}
        if not (context.get("runAsNonRoot") and context.get("runAsUser")):
            yield Fault(manifest.file, f"{manifest.name}, {place}", "it may run as root", "runAsNonRoot and runAsUser")
        for container in pod.get("containers") or []:
            own = container.get("securityContext") or {}
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                at = f"{manifest.name}, {place}, container {container.get('name')}"
                yield Fault(manifest.file, at, "it may gain privileges", "allowPrivilegeEscalation: false")


def default_deny(tree: Tree) -> Iterator[Fault]:
    """Check that each overlay has a policy that lets nothing in and nothing out, beside those that do."""
    for folder, built in tree.overlays():
        policies = [each.spec for each in built if each.kind == "NetworkPolicy"]
        if not any(
            spec.get("podSelector") == {}
            and set(spec.get("policyTypes") or []) == {"Ingress", "Egress"}
            and not (spec.get("ingress") or spec.get("egress"))
            for spec in policies
        ):
            yield Fault(
                f"{folder}/kustomization.yaml", "", "no policy denies by default", "add base/network-policy.yaml"
            )


def metadata_service_closed(tree: Tree) -> Iterator[Fault]:
    """Check that no pod reaches the cloud's metadata service, which hands out the credentials of the node."""
    for manifest in tree.manifests("NetworkPolicy"):
        for rule in manifest.spec.get("egress") or []:
            for peer in rule.get("to") or [{"ipBlock": {"cidr": "0.0.0.0/0"}}]:
                block = peer.get("ipBlock") or {}
                if block.get("cidr") == "0.0.0.0/0" and "169.254.0.0/16" not in (block.get("except") or []):
                    yield Fault(manifest.file, manifest.name, "169.254.169.254 can be reached", "add it to `except`")


def names_exist(tree: Tree) -> Iterator[Fault]:
    """Check that what an overlay's pods name is in it: claims, config maps, service accounts, MLflow's service."""
    for folder, built in tree.overlays():
        there = {each.name for each in built}
        for manifest, place, pod in _pods_of(built):
            for wanted in _wanted(pod):
                if wanted not in there:
                    yield Fault(
                        f"{folder}/kustomization.yaml", f"{manifest.name}, {place}", f"there is no {wanted}", "add it"
                    )
        for manifest in built:
            uri = str((manifest.document.get("data") or {}).get("MLFLOW_TRACKING_URI", ""))
            host, _, port = uri.removeprefix("http://").partition(":")
            served = {
                (each.document["metadata"]["name"], str(number.get("port")))
                for each in built
                if each.kind == "Service"
                for number in each.spec.get("ports") or []
            }
            if uri.startswith("http://") and "." not in host and (host, port) not in served:
                yield Fault(f"{folder}/kustomization.yaml", manifest.name, f"no service answers at {uri}", "add it")


def _wanted(pod: dict[str, Any]) -> Iterator[str]:
    """Yield the kind and name of each object that a pod cannot start without; Secrets come from elsewhere."""
    if account := pod.get("serviceAccountName"):
        yield f"ServiceAccount {account}"
    for volume in pod.get("volumes") or []:
        if claim := volume.get("persistentVolumeClaim"):
            yield f"PersistentVolumeClaim {claim['claimName']}"
        if config := volume.get("configMap"):
            yield f"ConfigMap {config['name']}"
    for container in pod.get("containers") or []:
        for source in container.get("envFrom") or []:
            if config := source.get("configMapRef"):
                yield f"ConfigMap {config['name']}"


def _pods(tree: Tree) -> Iterator[tuple[Manifest, str, dict[str, Any]]]:
    yield from _pods_of(tree.manifests())


def _pods_of(manifests: Iterable[Manifest]) -> Iterator[tuple[Manifest, str, dict[str, Any]]]:
    for manifest in manifests:
        if manifest.kind in KINDS:
            for group in groups(manifest):
                yield manifest, group.place, group.pod
        elif manifest.kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield manifest, "spec.template", (manifest.spec.get("template") or {}).get("spec") or {}
