"""The schema of KubeRay's objects, out of its resource definitions, written anew when KubeRay is upgraded.

    python -m infra.checks.kubernetes.kuberay_schemas FOLDER

FOLDER has `ray.io_rayjobs.yaml` and `ray.io_rayclusters.yaml` of the release (helm-chart/kuberay-operator/crds). The
schema is stricter than they are: a field that they do not know is refused. Pod templates are left out, which `objects`
checks as what they are, and so are fields that this project has no use for.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from infra.checks.json_schema import FOLDER

WRITTEN = FOLDER / "kuberay.json"
_PODS = ("template", "submitterPodTemplate")
# Behind feature gates that are off, or of Serve.
_UNUSED = (
    *("networkPolicy", "historyServerOptions", "gcsFaultToleranceOptions", "tlsOptions", "headService", "managedBy"),
    *("env", "envFrom", "volumeMounts", "upgradeStrategy", "claims", "clusterSelector", "deletionStrategy"),
)


def schemas(folder: Path) -> dict[str, Any]:
    """Return a strict JSON Schema by kind of what the definitions in a folder say of version v1."""
    return {kind: _strict(_definition(folder / f"ray.io_{kind.lower()}s.yaml")) for kind in ("RayCluster", "RayJob")}


def _definition(file: Path) -> dict[str, Any]:
    definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"].pop("status", None)
    return schema


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    strict = {key: value for key, value in schema.items() if key != "description" and not key.startswith("x-")}
    if "properties" in schema:
        strict["properties"] = {
            name: {"type": "object"} if name in _PODS else _strict(value)
            for name, value in schema["properties"].items()
            if name not in _UNUSED
        }
        strict.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = _strict(schema[key])
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("pattern", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string", "pattern": schema["pattern"]}]
    return strict


if __name__ == "__main__":
    WRITTEN.write_text(json.dumps(schemas(Path(sys.argv[1])), indent=1, sort_keys=True) + "\n")
