"""Rules and dashboards: that Prometheus takes them, and that all they ask for is exported by somebody."""

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ray

from infra.checks.fault import Fault
from infra.checks.monitoring.promql import metrics_in
from infra.checks.tools import run, tool
from infra.checks.tree import Tree

FOLDER = "infra/monitoring"
REGISTRY = "pipelines/tracking/metrics.py"
_DATASOURCES = "infra/compose/grafana/datasources/prometheus.yaml"
_OWN = re.compile(r"animatediff_\w+")
_OF_PROMETHEUS = {"up", "ALERTS", "scrape_duration_seconds", "scrape_samples_scraped", "absent"}
# A counter, and the three that a histogram is.
_SUFFIXES = ("_total", "_bucket", "_sum", "_count", "_created")
_IN_RAYS_PANELS = re.compile(r"\b(ray_\w+)\{")
_IN_RAYS_AGENT = re.compile(r'^    "(\w+)": Gauge\(', re.MULTILINE)


def rules_syntax(tree: Tree) -> Iterator[Fault]:
    """Check that Prometheus takes the rules and its own config."""
    promtool = tool("promtool")
    for name in _rule_files(tree):
        done = run([promtool, "check", "rules", "--lint=none", str(tree.path(name))])
        if done.returncode:
            yield Fault(name, "", " ".join(done.stderr.split()), "promtool check rules has to pass")


def alerts_say_what_to_do(tree: Tree) -> Iterator[Fault]:
    """Check that an alert has a severity, says what is wrong, and where the runbook tells what to type."""
    for name, place, rule in _rules(tree):
        if "alert" not in rule:
            continue
        if not (rule.get("labels") or {}).get("severity"):
            yield Fault(name, place, "no severity", "add labels.severity")
        for field in ("summary", "description"):
            if not (rule.get("annotations") or {}).get(field):
                yield Fault(name, place, f"no {field}", f"add annotations.{field}")


def rule_metrics(tree: Tree) -> Iterator[Fault]:
    """Check that each metric of a rule is exported: by a job, by Ray, or by Prometheus, or made by another rule."""
    known = _known(tree)
    for name, place, rule in _rules(tree):
        for metric in sorted(metrics_in(str(rule.get("expr", "")))):
            if not _is_known(metric, known):
                yield _unknown(name, place, metric)


def dashboard_syntax(tree: Tree) -> Iterator[Fault]:
    """Check that a dashboard is JSON, with a uid of its own, and of panels that have queries."""
    seen: dict[str, str] = {}
    for name in _dashboards(tree):
        board = _board(tree, name)
        if not board:
            yield Fault(name, "", "it is no JSON object", "export it from Grafana anew")
            continue
        uid = str(board.get("uid", ""))
        if not uid or uid in seen:
            yield Fault(name, "uid", f"{uid!r} is that of {seen.get(uid, 'none')}", "give it one of its own")
        seen[uid] = name
        for panel in _panels(board):
            if panel.get("type") not in ("row", "text") and not any(each.get("expr") for each in _targets(panel)):
                yield Fault(name, f"panel {panel.get('title')!r}", "it asks for nothing", "give it a query")


def panel_metrics(tree: Tree) -> Iterator[Fault]:
    """Check that each metric of a panel or a dashboard's variable is exported: by a job, by Ray, or made by a rule."""
    known = _known(tree)
    for name in _dashboards(tree):
        board = _board(tree, name)
        for place, expression in _expressions(board):
            for metric in sorted(metrics_in(expression)):
                if not _is_known(metric, known):
                    yield _unknown(name, place, metric)


def panel_datasources(tree: Tree) -> Iterator[Fault]:
    """Check that a panel's source of data is one that Grafana is given, or a variable."""
    given = {
        source.get("uid") for document in tree.documents(_DATASOURCES) for source in document.get("datasources") or []
    }
    for name in _dashboards(tree):
        for panel in _panels(_board(tree, name)):
            for holder in (panel, *_targets(panel)):
                source = holder.get("datasource")
                uid = source.get("uid") if isinstance(source, dict) else source
                if uid and not str(uid).startswith(("$", "-- ")) and uid not in given:
                    place = f"panel {panel.get('title')!r}"
                    yield Fault(name, place, f"there is no source {uid!r}", f"take the uid of {_DATASOURCES}")


def _unknown(name: str, place: str, metric: str) -> Fault:
    return Fault(
        name, place, f"nobody exports {metric}", f"take a name of {REGISTRY}, with ray_ before it, or of Ray's"
    )


def _rule_files(tree: Tree) -> list[str]:
    return [name for name in tree.matching(f"{FOLDER}/rules/*.yaml") if "/tests/" not in name]


def _rules(tree: Tree) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in _rule_files(tree):
        for document in tree.documents(name):
            for group in document.get("groups") or []:
                for rule in group.get("rules") or []:
                    yield name, str(rule.get("alert") or rule.get("record") or "a rule"), rule


def _known(tree: Tree) -> set[str]:
    """Return the names of all metrics that there are, without the suffixes of counters and histograms."""
    recorded = {str(rule["record"]) for _, _, rule in _rules(tree) if "record" in rule}
    return {f"ray_{name}" for name in own_metrics(tree)} | ray_metrics() | _OF_PROMETHEUS | recorded


def _is_known(metric: str, known: set[str]) -> bool:
    return metric in known or any(metric.endswith(end) and metric.removesuffix(end) in known for end in _SUFFIXES)


def own_metrics(tree: Tree) -> set[str]:
    """Return the names of the jobs' own metrics: those in the value of METRICS in the registry, without `ray_`."""
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


def _dashboards(tree: Tree) -> list[str]:
    return tree.matching(f"{FOLDER}/dashboards/*.json")


def _board(tree: Tree, name: str) -> dict[str, Any]:
    try:
        board = json.loads(tree.text(name))
    except ValueError:
        return {}
    return board if isinstance(board, dict) else {}


def _panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board.get("panels") or []:
        yield panel
        yield from _panels(panel)


def _targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return panel.get("targets") or []


def _expressions(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in _panels(board):
        for target in _targets(panel):
            yield f"panel {panel.get('title')!r}", str(target.get("expr", ""))
    for variable in (board.get("templating") or {}).get("list") or []:
        query = variable.get("query")
        text = str(query.get("query", "") if isinstance(query, dict) else query or "")
        if match := re.fullmatch(r"\s*label_values\(\s*(?:(?P<metric>[\w:]+)(?:\{.*\})?\s*,)?\s*\w+\s*\)\s*", text):
            yield f"variable {variable.get('name')}", match["metric"] or ""
        elif match := re.fullmatch(r"\s*query_result\((?P<inner>.*)\)\s*", text):
            yield f"variable {variable.get('name')}", match["inner"]
