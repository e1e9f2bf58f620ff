"""infra/ as it is has no fault, and the command says so, and what it finds otherwise."""

from infra import validate
from infra.checks.fault import Fault
from infra.checks.monitoring.exported import ray_metrics
from infra.checks.monitoring.promql import metrics_in
from infra.checks.table import CHECKS, Report, run_checks
from infra.checks.tree import Tree
from tests.infra.planting import REPOSITORY, appended, copy_of_infra, replaced, rule, rules_test


def test_infra_has_no_fault_and_only_promtool_may_be_missing():
    report = run_checks(Tree(REPOSITORY))
    assert [str(fault) for _, fault in report.faults] == []
    assert report.skipped.keys() <= {"prometheus_config", "rules_syntax", "rules_tests"}


def test_the_command_names_file_place_fault_remedy_and_check(tmp_path, capsys):
    tree = copy_of_infra(tmp_path)
    replaced(tree, "infra/kuberay/jobs/train.yaml", "priority: 10", "priority: 0")
    assert validate.main(tmp_path) == 1
    place = "RayJob train, spec.rayClusterSpec.workerGroupSpecs[0].priority (gpu-train-spot)"
    wrong = "priority not above that of gpu-train-on-demand; raise it [spot_first]"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"infra/kuberay/jobs/train.yaml: {place}: {wrong}"
    assert lines[-1].startswith("1 fault: ")


def test_the_command_says_what_it_could_not_look_at(tmp_path, capsys, monkeypatch):
    tree = copy_of_infra(tmp_path)
    monkeypatch.setattr(validate, "run_checks", lambda tree: Report(skipped={"rules_syntax": "promtool is not there"}))
    assert validate.main(tree.root) == 0
    assert capsys.readouterr().out.splitlines()[0] == "skipped rules_syntax: promtool is not there"


def test_what_an_overlay_has_of_a_file_is_told_once(tmp_path):
    tree = copy_of_infra(tmp_path)
    replaced(tree, "infra/kuberay/jobs/train.yaml", 'num-cpus: "0"', 'num-cpus: "4"')
    assert [fault.file for _, fault in run_checks(tree, ["head_without_work"]).faults] == [
        "infra/kuberay/jobs/train.yaml"
    ]


def test_a_fault_without_a_place_names_its_file():
    assert str(Fault("a.yaml", "", "it is wrong", "mend it")) == "a.yaml: it is wrong; mend it"


def test_every_check_says_what_it_looks_for():
    assert all((check.__doc__ or "").startswith("Check that ") for check in CHECKS.values())


def test_metrics_are_found_in_expressions_and_nothing_else():
    assert metrics_in('sum by (run) (rate(a_total{run=~"$run", x!="b_total"}[5m])) / on (run) b') == {"a_total", "b"}
    assert metrics_in("histogram_quantile(0.9, sum(rate(c_bucket[$__rate_interval])) by (le)) > bool 3") == {"c_bucket"}
    assert metrics_in("(time() - d_seconds) > 3600 and ignoring (run) e offset 5m unless ${metric}") == {
        "d_seconds",
        "e",
    }
    assert metrics_in('{__name__="f"} or absent(g) or label_replace(h, "a", "$1", "b", "(.*)")') == {"f", "g", "h"}
    assert metrics_in('count_values without (le) ("v", i:j:rate5m) # and k') == {"i:j:rate5m"}
    assert metrics_in("max_over_time(l[1h:5m] @ start())") == {"l"}


def test_metrics_of_ray_are_read_out_of_ray():
    assert {"ray_node_cpu_utilization", "ray_tasks", "ray_train_controller_state"} <= ray_metrics()


def test_a_tested_alert_is_one_that_a_test_makes_fire(tmp_path):
    tree = copy_of_infra(tmp_path)
    appended(tree, "infra/monitoring/rules/planted.yaml", rule("up == 0", annotations=("summary",)))
    appended(tree, "infra/monitoring/rules/tests/planted.yaml", rules_test(value=0))
    report = run_checks(tree, ["alerts_tested", "rules_tests"])
    assert [str(fault) for _, fault in report.faults if "planted" in fault.file] == []
