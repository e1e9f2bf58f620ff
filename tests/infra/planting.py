"""A copy of infra/, and how a fault is planted in it."""

import json
import shutil
from pathlib import Path

import yaml

from infra.checks.tree import Tree

REPOSITORY = Path(__file__).resolve().parents[2]
_COPIED = ("pyproject.toml", ".dockerignore", "README.md", "LICENSE")


def copy_of_infra(folder):
    """Copy what the checks may find a fault in; the sources are linked."""
    shutil.copytree(REPOSITORY / "infra", folder / "infra", ignore=shutil.ignore_patterns("__pycache__", ".env"))
    for name in _COPIED:
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("animatediff", "pipelines"):
        (folder / name).symlink_to(REPOSITORY / name)
    return Tree(folder)


def replaced(tree, name, old, new):
    """Replace a text that the file has."""
    path = tree.root / name
    text = path.read_text()
    assert old in text, f"{name} has no {old!r} to plant a fault at"
    path.write_text(text.replace(old, new, 1))


def appended(tree, name, text):
    """Add lines at the end of a file, which is made if need be."""
    path = tree.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


def dashboard(expression, *, uid="planted", source="prometheus", query=""):
    """Return a dashboard of one panel as Grafana stores it."""
    target = {"expr": expression, "datasource": {"type": "prometheus", "uid": source}}
    panel = {"title": "planted", "type": "timeseries", "targets": [target] if expression else []}
    return json.dumps({"uid": uid, "panels": [panel], "templating": {"list": [{"name": "run", "query": query}]}})


def rule(expression, *, severity="page", annotations=("summary", "description", "runbook_url"), runbook="#stalled-run"):
    """Return a file of one alert."""
    texts = dict.fromkeys(annotations, "it burns") | {"runbook_url": f"infra/runbook.md{runbook}"}
    alert = {
        "alert": "Planted",
        "expr": expression,
        "labels": {"severity": severity} if severity else {},
        "annotations": {name: text for name, text in texts.items() if name in annotations},
    }
    return yaml.safe_dump({"groups": [{"name": "planted", "rules": [alert]}]})


def rules_test(*, value):
    """Return a test of a rule for `up == 0`, in which `up` has a value."""
    alerts = [{"exp_labels": {"severity": "page"}, "exp_annotations": {"summary": "it burns"}}]
    fires = {"eval_time": "1m", "alertname": "Planted", "exp_alerts": alerts}
    test = {"input_series": [{"series": "up", "values": f"{value}x9"}], "alert_rule_test": [fires]}
    return yaml.safe_dump({"rule_files": ["../planted.yaml"], "tests": [test]})
