"""The schema of KubeRay's objects, as it is made of their definitions."""

import json
import os
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from infra.checks.kubernetes.kuberay_schemas import WRITTEN, schemas

QUANTITY = {"anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^[0-9]+[MG]i$"}


@pytest.fixture
def made(tmp_path):
    """The schema made of a small definition."""
    spec = {
        "type": "object",
        "description": "What it is to be.",
        "properties": {
            "rayVersion": {"type": "string"},
            "memory": {**QUANTITY, "x-kubernetes-int-or-string": True},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "groups": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "template": {"type": "object", "properties": {"spec": {"type": "object"}}},
            "tlsOptions": {"type": "object"},
        },
    }
    schema = {"type": "object", "properties": {"spec": spec, "metadata": {}, "status": {"type": "object"}}}
    version = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
    for kind in ("raycluster", "rayjob"):
        definition = {"spec": {"versions": [{"name": "v1alpha1"}, version]}}
        (tmp_path / f"ray.io_{kind}s.yaml").write_text(yaml.safe_dump(definition))
    return Draft202012Validator(schemas(tmp_path)["RayJob"])


def test_what_kuberay_knows_is_taken(made):
    spec = {"rayVersion": "2.60.0", "memory": "8Gi", "labels": {"any": "text"}, "groups": [{"name": "a"}]}
    assert made.is_valid({"metadata": {"name": "a"}, "spec": spec | {"memory": 8}})
    assert made.is_valid({"spec": spec | {"template": {"what": "objects.py checks"}}})


@pytest.mark.parametrize(
    "spec",
    [{"rayVersions": "2"}, {"rayVersion": 2}, {"memory": "8GB"}, {"labels": {"a": 1}}, {"groups": [{"nam": "a"}]}],
    ids=lambda spec: next(iter(spec)),
)
def test_what_kuberay_does_not_know_is_refused(made, spec):
    assert not made.is_valid({"spec": spec})


def test_fields_behind_feature_gates_are_refused(made):
    assert not made.is_valid({"spec": {"tlsOptions": {}}})


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder of KubeRay's definitions")
def test_the_schema_is_that_of_the_definitions():
    assert json.loads(WRITTEN.read_text()) == schemas(Path(os.environ["KUBERAY_CRDS"]))
