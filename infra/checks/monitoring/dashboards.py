"""Grafana's dashboards: that it takes them, and where their numbers come from."""

import json
import re
from collections.abc import Iterator
from typing import Any

from infra.checks.fault import Fault
from infra.checks.tree import Tree

_DASHBOARDS = "infra/monitoring/dashboards/*.json"
_DATASOURCES = "infra/compose/grafana/datasources/prometheus.yaml"
_LABEL_VALUES = re.compile(r"\s*label_values\(\s*(?:(?P<metric>[\w:]+)(?:\{.*\})?\s*,)?\s*\w+\s*\)\s*")
_QUERY_RESULT = re.compile(r"\s*query_result\((?P<inner>.*)\)\s*")


def dashboard_syntax(tree: Tree) -> Iterator[Fault]:
    """Check that a dashboard is JSON, has a uid of its own, and panels that have queries."""
    seen: dict[str, str] = {}
    for name in tree.matching(_DASHBOARDS):
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


def panel_datasources(tree: Tree) -> Iterator[Fault]:
    """Check that a panel's source of data is one that Grafana is given, or a variable."""
    given = {
        source.get("uid") for document in tree.documents(_DATASOURCES) for source in document.get("datasources") or []
    }
    for name in tree.matching(_DASHBOARDS):
        for panel in _panels(_board(tree, name)):
            for holder in (panel, *_targets(panel)):
                source = holder.get("datasource")
                uid = source.get("uid") if isinstance(source, dict) else source
                if uid and not str(uid).startswith(("$", "-- ")) and uid not in given:
                    place = f"panel {panel.get('title')!r}"
                    yield Fault(name, place, f"there is no source {uid!r}", f"take the uid of {_DATASOURCES}")


def expressions(tree: Tree) -> Iterator[tuple[str, str, str]]:
    """Yield each PromQL expression of a panel or a variable: its file, its place, and itself."""
    for name in tree.matching(_DASHBOARDS):
        board = _board(tree, name)
        for panel in _panels(board):
            for target in _targets(panel):
                yield name, f"panel {panel.get('title')!r}", str(target.get("expr", ""))
        for variable in (board.get("templating") or {}).get("list") or []:
            query = variable.get("query")
            text = str(query.get("query", "") if isinstance(query, dict) else query or "")
            if match := _LABEL_VALUES.fullmatch(text):
                yield name, f"variable {variable.get('name')}", match["metric"] or ""
            elif match := _QUERY_RESULT.fullmatch(text):
                yield name, f"variable {variable.get('name')}", match["inner"]


def _board(tree: Tree, name: str) -> dict[str, Any]:
    try:
        board = json.loads(tree.text(name))
    except ValueError:
        return {}
    return board if isinstance(board, dict) else {}


def _panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a dashboard's panels, those in rows too."""
    for panel in board.get("panels") or []:
        yield panel
        yield from _panels(panel)


def _targets(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return panel.get("targets") or []
