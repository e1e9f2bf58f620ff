"""Rules and dashboards: promtool's own tests, and that what they ask for is what the jobs export."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from infra.monitoring import dashboards
from pipelines.tracking.metrics import METRICS

MONITORING = Path(__file__).parents[2] / "infra/monitoring"
RULES = yaml.safe_load((MONITORING / "rules/animatediff.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
BY_NAME = {metric.exported_name: metric for metric in METRICS}
_SERIES = re.compile(r"(ray_animatediff_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)=~?"([^"]*)"')
_OF_RAY = {"ray_node_gpus_utilization", "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total"} | {
    "ray_node_disk_utilization_percentage"
}


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    return subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True)


def queries():
    for job in dashboards.PANELS:
        for panel in dashboards.dashboard(job)["panels"]:
            yield from ((f"{job}: {panel['title']}", target["expr"]) for target in panel["targets"])


def expressions():
    return [*((rule["alert"], rule["expr"]) for rule in ALERTS), *queries()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules/animatediff.yaml"),
        ("check", "config", "prometheus.yaml"),
        ("test", "rules", "rules/tests/animatediff.yaml"),
    ],
    ids=" ".join,
)
def test_promtool_is_content(arguments):
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tests_of_the_rules_have_each_alert_firing():
    tests = (MONITORING / "rules/tests/animatediff.yaml").read_text()
    for rule in ALERTS:
        assert f'alertname="{rule["alert"]}", alertstate="firing"' in tests


@pytest.mark.parametrize(
    ("alert", "before", "after"),
    [
        ("AnimateDiffRunStalled", "> 1800", "< -1800"),
        ("AnimateDiffQuarantineHigh", ">= 20", ">= 2000"),
        ("AnimateDiffRunLost", "unless sum", "and sum"),
    ],
)
def test_promtool_notices_a_rule_that_is_wrong(tmp_path, alert, before, after):
    (tmp_path / "tests").mkdir()
    rules = json.loads(json.dumps(RULES))
    (rule,) = (rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == alert)
    assert before in rule["expr"]
    rule["expr"] = rule["expr"].replace(before, after)
    (tmp_path / "animatediff.yaml").write_text(yaml.safe_dump(rules))
    shutil.copy(MONITORING / "rules/tests/animatediff.yaml", tmp_path / "tests")
    assert promtool("test", "rules", str(tmp_path / "tests/animatediff.yaml")).returncode == 1


@pytest.mark.parametrize(("place", "expression"), expressions(), ids=[place for place, _ in expressions()])
def test_what_is_asked_for_is_exported_with_these_labels(place, expression):
    series = _SERIES.findall(expression)
    assert series or set(re.findall(r"ray_\w+", expression)) <= _OF_RAY
    for name, matchers in series:
        for label, value in _MATCHER.findall(matchers):
            assert label in BY_NAME[name].labels
            if label in BY_NAME[name].tags:
                assert set(value.split("|")) <= set(BY_NAME[name].tags[label])


def test_every_metric_is_asked_for():
    asked = {name for _, expression in expressions() for name, _ in _SERIES.findall(expression)}
    assert asked == BY_NAME.keys()


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_which_run_how_bad_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert "{{ $labels.run }}" in rule["annotations"]["description"]
    assert rule["annotations"]["summary"]
    assert re.fullmatch(r"infra/runbook\.md#[a-z-]+", rule["annotations"]["runbook_url"])


@pytest.mark.parametrize("job", dashboards.PANELS)  # type: ignore[attr-defined]  # mypy sees the folder of this name
def test_a_dashboard_is_what_its_table_says(job):
    text = (dashboards.FOLDER / f"{job}.json").read_text()
    assert text == dashboards.as_text(job), "python infra/monitoring/dashboards.py"
    assert json.loads(text) == dashboards.dashboard(job)
