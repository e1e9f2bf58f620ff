"""Prometheus's config and rules: that it takes them, that each alert is tested, and says what to do."""

import re
from collections.abc import Iterator
from typing import Any

from infra.checks.fault import Fault
from infra.checks.tools import run, tool
from infra.checks.tree import Tree

_CONFIG = "infra/monitoring/prometheus.yaml"
_RULES, _TESTS = "infra/monitoring/rules/*.yaml", "infra/monitoring/rules/tests/*.yaml"

_FIRING = re.compile(r'ALERTS\{(?=.*alertstate="firing").*alertname="(?P<alert>\w+)"')


def rules(tree: Tree) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each rule: its file, its name, and itself."""
    for name in _rule_files(tree):
        for document in tree.documents(name):
            for group in document.get("groups") or []:
                for rule in group.get("rules") or []:
                    yield name, str(rule.get("alert") or rule.get("record") or "a rule"), rule


def prometheus_config(tree: Tree) -> Iterator[Fault]:
    """Check that Prometheus takes its config."""
    promtool = tool("promtool")
    if tree.text(_CONFIG):
        yield from _refused(tree, _CONFIG, [promtool, "check", "config", "--syntax-only"])


def rules_syntax(tree: Tree) -> Iterator[Fault]:
    """Check that Prometheus takes the rules."""
    promtool = tool("promtool")
    for name in _rule_files(tree):
        yield from _refused(tree, name, [promtool, "check", "rules"])


def rules_tests(tree: Tree) -> Iterator[Fault]:
    """Check that the rules do what their tests say."""
    promtool = tool("promtool")
    for name in tree.matching(_TESTS):
        yield from _refused(tree, name, [promtool, "test", "rules"])


def alerts_tested(tree: Tree) -> Iterator[Fault]:
    """Check that each alert fires in a test."""
    fired = {
        alert
        for name in tree.matching(_TESTS)
        for document in tree.documents(name)
        for test in document.get("tests") or []
        for alert in _fired(test)
    }
    for name, alert, rule in rules(tree):
        if "alert" in rule and alert not in fired:
            yield Fault(name, alert, "no test makes it fire", "add one to rules/tests")


def alerts_explained(tree: Tree) -> Iterator[Fault]:
    """Check that an alert has a severity, says what is wrong, and names a heading of the runbook that is there."""
    for name, alert, rule in rules(tree):
        if "alert" not in rule:
            continue
        annotations = rule.get("annotations") or {}
        if not (rule.get("labels") or {}).get("severity"):
            yield Fault(name, alert, "no severity", "add labels.severity")
        for field in ("summary", "description", "runbook_url"):
            if not annotations.get(field):
                yield Fault(name, alert, f"no {field}", f"add annotations.{field}")
        runbook, _, anchor = str(annotations.get("runbook_url", "")).partition("#")
        if runbook and anchor not in _anchors(tree.text(runbook)):
            yield Fault(name, alert, f"there is no {runbook}#{anchor}", "name a heading that is there")


def _fired(test: dict[str, Any]) -> Iterator[str]:
    """Yield the alerts that a test expects to fire, in either of the ways in which a test can say so."""
    for each in test.get("alert_rule_test") or []:
        if each.get("exp_alerts"):
            yield str(each.get("alertname"))
    for each in test.get("promql_expr_test") or []:
        for sample in each.get("exp_samples") or []:
            if match := _FIRING.search(str(sample.get("labels"))):
                yield match["alert"]


def _anchors(text: str) -> set[str]:
    """Return a Markdown text's headings as links name them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _rule_files(tree: Tree) -> list[str]:
    return sorted(set(tree.matching(_RULES)) - set(tree.matching(_TESTS)))


def _refused(tree: Tree, name: str, command: list[str]) -> Iterator[Fault]:
    done = run([*command, str(tree.path(name))])
    if done.returncode:
        wrong = " ".join((done.stderr or done.stdout).replace(f"{tree.root}/", "").split())
        yield Fault(name, "", wrong, f"promtool {' '.join(command[1:3])} {name} has to pass")
