"""All checks by name, and what they find together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from infra.checks import clusters, compose, files, images, jobs, secrets, versions
from infra.checks.fault import Fault, SkippedError
from infra.checks.kubernetes import objects, queues, ray_rules
from infra.checks.monitoring import dashboards, exported, rules
from infra.checks.tree import Tree

Check = Callable[[Tree], Iterator[Fault]]

_CHECKS: tuple[Check, ...] = (
    *(files.yaml_syntax, files.yaml_style),
    *(images.hadolint, images.image_user, images.image_sources, images.image_labels),
    *(compose.compose_config, compose.compose_mounts, compose.compose_ports, compose.compose_token),
    *(objects.kustomize_builds, objects.kubernetes_schema, objects.pod_templates, objects.other_schemas),
    *(objects.port_names, objects.no_root, objects.names_exist),
    *(objects.default_deny, objects.metadata_service_closed),
    *(ray_rules.kuberay_schema, ray_rules.token_authentication, ray_rules.head_without_work, ray_rules.head_on_demand),
    *(ray_rules.gpu_requests_equal_limits, ray_rules.gpu_toleration, ray_rules.spot_toleration, ray_rules.spot_first),
    *(ray_rules.replicas_in_order, ray_rules.gpus_scale_to_zero, ray_rules.bounded_jobs, ray_rules.grace_period),
    *(queues.queue_names, queues.queued_jobs, queues.jobs_fit_quota),
    *(jobs.job_scripts, jobs.job_configs, jobs.mounted_configs, jobs.sizes_are_said, jobs.job_fits_cluster),
    *(clusters.ray_up_schema, clusters.ray_up_config, clusters.ray_up_token, clusters.ray_up_head),
    *(clusters.skypilot_schema, clusters.skypilot_mounts, clusters.runtime_env_keys, clusters.runtime_env_values),
    *(rules.prometheus_config, rules.rules_syntax, rules.rules_tests, rules.alerts_tested, rules.alerts_explained),
    *(dashboards.dashboard_syntax, dashboards.panel_datasources, exported.rule_metrics, exported.panel_metrics),
    *(versions.ray_version, versions.mlflow_version, versions.python_version),
    *(versions.image_tags, versions.project_tags),
    *(secrets.keys_in_text, secrets.literal_secrets, secrets.secret_objects, files.listed_files),
)
CHECKS: Mapping[str, Check] = {check.__name__: check for check in _CHECKS}
"""The checks by name, in the order in which they run."""


@dataclass
class Report:
    """What checks found."""

    faults: list[tuple[str, Fault]] = field(default_factory=list)
    """Each with the name of its check."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Checks that could not look, with the reason."""


def run_checks(tree: Tree, names: Iterable[str] = CHECKS) -> Report:
    """Run checks over a repository.

    Args:
        tree: the repository.
        names: which checks; default: all.

    Returns:
        What they found. What an overlay has of a file is told of the file alone.
    """
    report, told = Report(), set()
    for name in names:
        try:
            for fault in CHECKS[name](tree):
                is_built = fault.file.endswith("kustomization.yaml")
                if is_built and (name, fault.place, fault.wrong) in told:
                    continue
                if not is_built:
                    told.add((name, fault.place, fault.wrong))
                report.faults.append((name, fault))
        except SkippedError as error:
            report.skipped[name] = str(error)
    return report
