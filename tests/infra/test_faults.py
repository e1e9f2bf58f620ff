"""Each check finds the fault that is planted for it, and says in which file."""

from functools import partial

import pytest

from infra.checks.fault import SkippedError
from infra.checks.table import CHECKS
from tests.infra.planting import appended, copy_of_infra, dashboard, replaced, rule, rules_test

INGEST, TRAIN = "infra/kuberay/jobs/ingest.yaml", "infra/kuberay/jobs/train.yaml"
ANIMATE, CLUSTER = "infra/kuberay/jobs/animate.yaml", "infra/kuberay/cluster/raycluster.yaml"
CONFIGS = "infra/kuberay/jobs/configs"
BASE, MLFLOW, QUEUE = "infra/kuberay/base", "infra/kuberay/mlflow/mlflow.yaml", "infra/kuberay/queue"
SPOT, PROD = ("infra/kuberay/overlays/spot/kustomization.yaml", "infra/kuberay/overlays/prod/kustomization.yaml")
QUEUED = f"{QUEUE}/jobs/kustomization.yaml"
DOCKERFILE, MLFLOW_IMAGE = "infra/docker/Dockerfile", "infra/docker/mlflow.Dockerfile"
COMPOSE, NAMES = "infra/compose/compose.yaml", "infra/compose/.env.example"
AWS, GCP, SKY = "infra/clusters/aws.yaml", "infra/clusters/gcp.yaml", "infra/skypilot/train.yaml"
DEV = "infra/runtime_env/dev.yaml"
RULES, RULES_TEST = "infra/monitoring/rules/planted.yaml", "infra/monitoring/rules/tests/planted.yaml"
BOARD = "infra/monitoring/dashboards/planted.json"
PORT = "{name: metrics, containerPort: 8080}"
# The strings that look like keys are put together here, so that none stands in a file.
KEY = "AKIA" + "Q" * 16


def plant(name, old, new):
    """A text of a file that is replaced by another."""
    return name, partial(replaced, name=name, old=old, new=new)


def add(name, text):
    """Lines at the end of a file."""
    return name, partial(appended, name=name, text=text)


def rule_and_test(tree):
    """An alert on what is away, and a test in which it is there."""
    appended(tree, RULES, rule("up == 0", annotations=("summary",)))
    appended(tree, RULES_TEST, rules_test(value=1))


FAULTS = [
    # Any file.
    ("yaml_syntax", plant(INGEST, "spec:\n", "spec: [\n")),
    ("yaml_style", plant(TRAIN, "  name: train\n", "  name: train\n  name: train\n")),
    ("listed_files", ("infra/README.md", partial(appended, name="infra/skypilot/curate.yaml", text="name: x\n"))),
    # Images and compose.
    ("hadolint", plant(MLFLOW_IMAGE, "pip install --no-cache-dir ", "pip install --no-cache-dir requests ")),
    ("hadolint", plant(DOCKERFILE, "WORKDIR /home/ray/animatediff", "WORKDIR animatediff")),
    ("image_user", plant(DOCKERFILE, "USER 1000", "USER root")),
    ("image_user", plant(MLFLOW_IMAGE, "USER 1000", "USER mlflow")),
    ("image_sources", plant(DOCKERFILE, "COPY --chown=ray:users pipelines pipelines", "COPY pipeline pipelines")),
    ("image_sources", (".dockerignore", partial(replaced, name=".dockerignore", old="!pipelines\n", new=""))),
    ("image_labels", plant(DOCKERFILE, "org.opencontainers.image.revision", "org.opencontainers.image.commit")),
    ("compose_config", plant(COMPOSE, "    restart: unless-stopped", "    restarts: unless-stopped")),
    ("compose_config", plant(COMPOSE, "${POSTGRES_PASSWORD:?is in .env}", "${PG_PASSWORD:?is in .env}")),
    ("compose_mounts", plant(COMPOSE, "- ./grafana:", "- ./graphana:")),
    ("compose_ports", plant(COMPOSE, "- 127.0.0.1:8265:8265", "- 8265:8265")),
    ("compose_token", plant(COMPOSE, "RAY_AUTH_MODE: token", "RAY_AUTH_MODE: disabled")),
    # Kubernetes.
    ("kustomize_builds", plant(SPOT, "workerGroupSpecs/2/maxReplicas", "workerGroupSpecs/7/maxReplicas")),
    ("kustomize_builds", plant(PROD, "resources:\n", "resource:\n")),
    ("kubernetes_schema", plant(MLFLOW, "  replicas: 1", "  replica: 1")),
    ("kubernetes_schema", plant(f"{BASE}/service-account.yaml", "kind: ServiceAccount\n", "")),
    ("kubernetes_schema", plant(f"{BASE}/network-policy.yaml", "podSelector: {}", "podSelectors: {}")),
    ("pod_templates", plant(TRAIN, "resources: &one-node", "resourcez: &one-node")),
    (
        "pod_templates",
        plant(
            SPOT,
            "value: 10}",
            "value: 10}\n      - {op: add, path: "
            "/spec/rayClusterSpec/headGroupSpec/template/spec/hostNetworking, value: true}",
        ),
    ),
    ("other_schemas", plant(f"{QUEUE}/quota/quota.yaml", "nominalQuota: 32", "nominalQuotas: 32")),
    ("other_schemas", plant("infra/kuberay/monitoring/pod-monitors.yaml", "podMetricsEndpoints", "endpoints")),
    ("port_names", plant(INGEST, "name: metrics", "name: metrics-of-the-node")),
    ("no_root", plant(ANIMATE, "runAsNonRoot: true", "runAsNonRoot: false")),
    ("no_root", plant(MLFLOW, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true")),
    ("names_exist", plant(SPOT, "  - ../../mlflow\n", "")),
    ("names_exist", (SPOT, partial(replaced, name=TRAIN, old="claimName: model-cache", new="claimName: models"))),
    (
        "default_deny",
        (SPOT, partial(replaced, name=f"{BASE}/kustomization.yaml", old="  - network-policy.yaml\n", new="")),
    ),
    ("metadata_service_closed", plant(f"{BASE}/network-policy.yaml", ", except: [169.254.0.0/16]", "")),
    # KubeRay.
    ("kuberay_schema", plant(INGEST, "backoffLimit: 3", "backOffLimit: 3")),
    ("kuberay_schema", plant(CLUSTER, 'num-cpus: "0"', "num-cpus: 0")),
    ("kuberay_schema", plant(TRAIN, "maxReplicas: 2", "maxReplicaz: 2")),
    ("token_authentication", plant(CLUSTER, "mode: token", "mode: disabled")),
    ("head_without_work", plant(TRAIN, 'num-cpus: "0"', 'num-cpus: "4"')),
    ("head_on_demand", plant(ANIMATE, "nodeSelector: {node-pool: cpu}", "nodeSelector: {node-pool: cpu-spot}")),
    ("gpu_requests_equal_limits", plant(TRAIN, 'limits: {cpu: "88"', 'limits: {cpu: "96"')),
    ("gpu_toleration", plant(ANIMATE, "- {key: nvidia.com/gpu, operator", "- {key: nvidia.com/gpus, operator")),
    ("spot_toleration", plant(INGEST, "- {key: spot, operator", "- {key: sport, operator")),
    ("spot_first", plant(INGEST, "priority: 10", "priority: 0")),
    ("replicas_in_order", plant(ANIMATE, "replicas: 0", "replicas: 99")),
    ("replicas_in_order", (PROD, partial(replaced, name=QUEUED, old="value: 2}", new="value: 3}"))),
    ("gpus_scale_to_zero", plant(TRAIN, "minReplicas: 0", "minReplicas: 1")),
    ("bounded_jobs", plant(INGEST, "  activeDeadlineSeconds: 172800", "  # activeDeadlineSeconds: 172800")),
    ("bounded_jobs", plant(INGEST, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false")),
    (
        "grace_period",
        plant(TRAIN, "terminationGracePeriodSeconds: &grace 60", "terminationGracePeriodSeconds: &grace 30"),
    ),
    # Kueue.
    ("queue_names", plant(f"{QUEUE}/jobs/local-queue.yaml", "clusterQueue: animatediff", "clusterQueue: others")),
    ("queue_names", plant(f"{QUEUE}/quota/quota.yaml", "- name: animatediff-gpu-train", "- name: animatediff-h200")),
    (
        "queued_jobs",
        (PROD, partial(replaced, name=f"{QUEUE}/jobs/queued.yaml", old="suspend: true", new="suspend: false")),
    ),
    (
        "queued_jobs",
        (PROD, partial(replaced, name=f"{QUEUE}/quota/quota.yaml", old="{node-pool: gpu}", new="{pool: gpu}")),
    ),
    (
        "jobs_fit_quota",
        (PROD, partial(replaced, name=f"{QUEUE}/quota/quota.yaml", old="nominalQuota: 2Ti", new="nominalQuota: 1Ti")),
    ),
    # What runs on them.
    ("job_scripts", plant(TRAIN, "python pipelines/train.py", "python pipelines/training.py")),
    ("job_scripts", plant(SKY, "python pipelines/train.py", "python train.py")),
    ("job_configs", plant(INGEST, "/etc/animatediff/ingest.yaml", "/etc/animatediff/ingestion.yaml")),
    ("job_configs", plant(f"{CONFIGS}/train.yaml", "  batch_size: 64", "  batchsize: 64")),
    ("job_configs", plant(f"{CONFIGS}/animate.yaml", "formats: [mp4, webp]", "formats: [mp4, mkv]")),
    ("job_configs", plant(f"{CONFIGS}/catalog.yaml", "seeds: [0, 1]", "seed: [0, 1]")),
    (
        "mounted_configs",
        (SPOT, partial(replaced, name=f"{CONFIGS}/animate.yaml", old="/catalog.yaml", new="/cat.yaml")),
    ),
    ("sizes_are_said", plant(f"{CONFIGS}/ingest.yaml", "num_encoders: 8\n", "")),
    ("sizes_are_said", plant(f"{CONFIGS}/train.yaml", "  use_gpu: true\n", "")),
    (
        "job_fits_cluster",
        (INGEST, partial(replaced, name=f"{CONFIGS}/ingest.yaml", old="encoders: 8", new="encoders: 80")),
    ),
    ("job_fits_cluster", (PROD, partial(replaced, name=QUEUED, old="value: 16}", new="value: 4}"))),
    # `ray up`, SkyPilot, runtime_env.
    ("ray_up_schema", plant(AWS, "max_workers: 12", "max_workerz: 12")),
    ("ray_up_config", plant(GCP, "head_node_type: head", "head_node_type: chief")),
    ("ray_up_token", plant(AWS, "    - --env RAY_AUTH_MODE=token\n", "")),
    ("ray_up_token", plant(GCP, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")),
    ("ray_up_head", plant(AWS, "resources: {CPU: 0}", "resources: {CPU: 8}")),
    ("skypilot_schema", plant(SKY, "num_nodes: 2", "nodes: 2")),
    ("skypilot_schema", plant(SKY, "job_recovery: EAGER_NEXT_REGION", "job_recovery: SOMEHOW")),
    ("skypilot_mounts", plant(SKY, "infra/kuberay/jobs/configs/train.yaml", "infra/kuberay/configs/train.yaml")),
    ("runtime_env_keys", plant(DEV, "excludes:", "exclude:")),
    ("runtime_env_values", plant(DEV, "excludes: [tests/, notebooks/, infra/]", "env_vars: {EPOCHS: 3}")),
    # Monitoring.
    ("rules_syntax", add(RULES, rule("sum(ray_node_cpu_count"))),
    ("prometheus_config", add("infra/monitoring/prometheus.yaml", "scrape: []\n")),
    ("rules_tests", (RULES_TEST, rule_and_test)),
    ("alerts_tested", add(RULES, rule("up == 0"))),
    ("alerts_explained", add(RULES, rule("up == 0", severity=""))),
    ("alerts_explained", add(RULES, rule("up == 0", annotations=("summary",)))),
    ("alerts_explained", add(RULES, rule("up == 0", runbook="#nowhere"))),
    ("rule_metrics", add(RULES, rule("rate(ray_animatediff_ingest_klips_total[5m]) > 1"))),
    ("dashboard_syntax", add(BOARD, "{")),
    ("dashboard_syntax", add(BOARD, dashboard(""))),
    ("panel_metrics", add(BOARD, dashboard("avg by (run) (ray_animatediff_train_lossy{run=~'$run'})"))),
    ("panel_metrics", add(BOARD, dashboard("up", query="label_values(ray_animatediff_nothing, run)"))),
    ("panel_datasources", add(BOARD, dashboard("up", source="thanos"))),
    # Versions.
    ("ray_version", plant(TRAIN, 'rayVersion: "2.60.0"', 'rayVersion: "2.59.1"')),
    ("ray_version", plant(DOCKERFILE, "ARG RAY_VERSION=2.60.0", "ARG RAY_VERSION=2.61.0")),
    ("ray_version", ("infra/pins.txt", partial(replaced, name="pyproject.toml", old=">=2.60,<3", new=">=2.61,<3"))),
    ("mlflow_version", plant(MLFLOW_IMAGE, "MLFLOW_VERSION=3.17.2", "MLFLOW_VERSION=2.22.0")),
    ("python_version", plant(DOCKERFILE, "-py311-", "-py310-")),
    ("image_tags", plant(COMPOSE, "prom/prometheus:v3.5.0", "prom/prometheus:latest")),
    ("image_tags", plant(SKY, "animatediff:0.1.0", "animatediff")),
    ("project_tags", plant(PROD, "newTag: 0.1.0", "newTag: 0.2.0")),
    # Secrets.
    ("keys_in_text", add(f"{CONFIGS}/train.yaml", f"# {KEY}\n")),
    ("keys_in_text", plant(f"{BASE}/settings.yaml", "http://mlflow:5000", "http://me:hunter2@mlflow:5000")),
    ("literal_secrets", plant(SKY, "RAY_AUTH_TOKEN: null", "RAY_AUTH_TOKEN: hunter2")),
    (
        "literal_secrets",
        plant(
            TRAIN,
            "securityContext: *restricted\n",
            "securityContext: *restricted\n              env: [{name: HF_TOKEN, value: hunter2}]\n",
        ),
    ),
    ("literal_secrets", plant(NAMES, "GRAFANA_PASSWORD=", "GRAFANA_PASSWORD=hunter2")),
    ("secret_objects", add(f"{BASE}/settings.yaml", "---\napiVersion: v1\nkind: Secret\nmetadata: {name: x}\n")),
    ("secret_objects", add(f"{BASE}/kustomization.yaml", "secretGenerator:\n  - {name: x, literals: [a=b]}\n")),
]


def case(fault):
    check, (name, _) = fault
    return f"{check}:{name.rpartition('/')[2]}"


@pytest.mark.parametrize("fault", FAULTS, ids=case)
def test_a_planted_fault_is_found_by_its_check_in_its_file(fault, tmp_path):
    check, (name, put) = fault
    tree = copy_of_infra(tmp_path)
    put(tree)
    try:
        assert any(found.file == name for found in CHECKS[check](tree))
    except SkippedError as reason:
        pytest.skip(str(reason))


def test_every_check_has_a_planted_fault():
    assert {check for check, _ in FAULTS} == CHECKS.keys()
