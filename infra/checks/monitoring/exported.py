"""That what rules and dashboards ask for is exported by somebody."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import ray

from infra.checks.fault import Fault
from infra.checks.monitoring.dashboards import expressions
from infra.checks.monitoring.promql import metrics_in
from infra.checks.monitoring.rules import rules
from infra.checks.tree import Tree

REGISTRY = "pipelines/tracking/metrics.py"
_OWN = re.compile(r"animatediff_\w+")
_OF_PROMETHEUS = {"up", "ALERTS", "ALERTS_FOR_STATE", "scrape_duration_seconds", "scrape_samples_scraped"}
# Of a counter; and of the series that a histogram is.
_SUFFIXES = ("_total", "_bucket", "_sum", "_count")
_IN_RAYS_PANELS = re.compile(r"\b(ray_\w+)\{")
_IN_RAYS_AGENT = re.compile(r'^    "(\w+)": Gauge\(', re.MULTILINE)


def rule_metrics(tree: Tree) -> Iterator[Fault]:
    """Check that each metric of a rule is exported: by a job, by Ray, or by Prometheus, or made by another rule."""
    yield from _unknown(tree, ((name, place, str(rule.get("expr", ""))) for name, place, rule in rules(tree)))


def panel_metrics(tree: Tree) -> Iterator[Fault]:
    """Check that each metric of a panel or a dashboard's variable is exported: by a job, by Ray, or made by a rule."""
    yield from _unknown(tree, expressions(tree))


def own_metrics(tree: Tree) -> set[str]:
    """Return the names of the jobs' own metrics, without `ray_`: those in the value of METRICS in the registry."""
    for statement in ast.parse(tree.text(REGISTRY)).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "METRICS" for target in targets):
            texts = (node.value for node in ast.walk(statement) if isinstance(node, ast.Constant))
            return {text for text in texts if isinstance(text, str) and _OWN.fullmatch(text)}
    return set()


@cache
def ray_metrics() -> set[str]:
    """Return the names of Ray's own metrics: those of its dashboards, and those that its agent measures on a node."""
    dashboard = Path(ray.__file__).parent / "dashboard/modules"
    panels = (file.read_text() for file in (dashboard / "metrics/dashboards").glob("*_panels.py"))
    agent = (dashboard / "reporter/reporter_agent.py").read_text()
    return {name for text in panels for name in _IN_RAYS_PANELS.findall(text)} | {
        f"ray_{name}" for name in _IN_RAYS_AGENT.findall(agent)
    }


def _unknown(tree: Tree, asked: Iterator[tuple[str, str, str]]) -> Iterator[Fault]:
    recorded = {str(rule["record"]) for _, _, rule in rules(tree) if "record" in rule}
    known = {f"ray_{name}" for name in own_metrics(tree)} | ray_metrics() | _OF_PROMETHEUS | recorded
    remedy = f"take a name of {REGISTRY} with ray_ before it, or of Ray's"
    for name, place, expression in asked:
        for metric in sorted(metrics_in(expression)):
            if metric not in known and not any(metric.removesuffix(suffix) in known for suffix in _SUFFIXES):
                yield Fault(name, place, f"nobody exports {metric}", remedy)
