"""The Grafana dashboards, one a job: `python infra/monitoring/dashboards.py` writes dashboards/*.json anew.

The files are what Grafana reads; change a query here, and not there.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).with_name("dashboards")
_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 7
_RUN = 'run="$run"'


class Panel(NamedTuple):
    """One picture of numbers over time."""

    title: str
    unit: str
    """As Grafana names it."""
    queries: dict[str, str]
    """PromQL by legend; `RUN` stands for the label of the chosen run."""

    def as_json(self, number: int) -> dict[str, Any]:
        """Return it as Grafana's, in its place among the others."""
        row, column = divmod(number, _COLUMNS)
        return {
            "type": "timeseries",
            "title": self.title,
            "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0}},
            "targets": [
                {"refId": chr(ord("A") + i), "expr": query.replace("RUN", _RUN), "legendFormat": legend}
                for i, (legend, query) in enumerate(self.queries.items())
            ],
        }


def _rate(metric: str, by: str = "") -> str:
    return f"sum{by}(rate(ray_animatediff_{metric}{{RUN}}[$__rate_interval]))"


def _total(metric: str, by: str) -> str:
    return f"sum by ({by}) (ray_animatediff_{metric}{{RUN}}) >= 1"


def _gauge(metric: str) -> str:
    return f"max(ray_animatediff_{metric}{{RUN}})"


def _age(metric: str) -> str:
    return f"time() - {_gauge(metric)}"


_EVERY_JOB = [
    Panel("Done", "percentunit", {"of what the job does now": _gauge("job_progress_ratio")}),
    Panel("Since something was finished", "s", {"": _age("job_progress_timestamp_seconds")}),
]
_AROUND = [
    Panel("Ends since Ray's node began", "none", {"{{outcome}}": _total("job_ends_total", "outcome")}),
    Panel(
        "Busy machines (all runs)",
        "percent",
        {"GPUs": "avg(ray_node_gpus_utilization)", "CPUs": "avg(ray_node_cpu_utilization)"},
    ),
    Panel(
        "Memory (all runs)",
        "percentunit",
        {
            "fullest machine": "max(ray_node_mem_used / ray_node_mem_total)",
            "fullest disk": "max(ray_node_disk_utilization_percentage) / 100",
        },
    ),
]
_MLFLOW = Panel("MLflow answers", "bool_yes_no", {"": _gauge("mlflow_up")})

PANELS = {
    "curate": [
        *_EVERY_JOB,
        _MLFLOW,
        Panel(
            "Speed",
            "none",
            {
                "hours of video/h": _rate("curate_video_seconds_total"),
                "shots/s": _rate("curate_shots_total"),
                "captions/s": _rate("curate_captions_total"),
            },
        ),
        Panel("Workers at work, by stage", "none", {"{{stage}}": _rate("curate_stage_seconds_total", " by (stage) ")}),
        Panel("Captions", "none", {"{{outcome}}": _total("curate_captions_total", "outcome")}),
        Panel("Tokens", "none", {"tokens/s": _rate("curate_caption_tokens_total")}),
        Panel("Quarantined", "none", {"{{reason}}": _total("curate_quarantined_videos_total", "reason")}),
        Panel(
            "Quarantined share",
            "percentunit",
            {
                "now": f"{_rate('curate_quarantined_videos_total')} / {_rate('curate_videos_total')}",
                "max_quarantine_rate": _gauge("curate_quarantine_limit_ratio"),
            },
        ),
    ],
    "ingest": [
        *_EVERY_JOB,
        _MLFLOW,
        Panel("Speed", "none", {"clips/s": _rate("ingest_clips_total"), "videos/s": _rate("ingest_videos_total")}),
        Panel("Workers at work, by stage", "none", {"{{stage}}": _rate("ingest_stage_seconds_total", " by (stage) ")}),
        Panel("Quarantined", "none", {"{{reason}}": _total("ingest_quarantined_videos_total", "reason")}),
        Panel(
            "Quarantined share",
            "percentunit",
            {
                "now": f"{_rate('ingest_quarantined_videos_total')} / {_rate('ingest_videos_total')}",
                "max_quarantine_rate": _gauge("ingest_quarantine_limit_ratio"),
            },
        ),
    ],
    "train": [
        *_EVERY_JOB,
        _MLFLOW,
        Panel("Loss", "none", {"training": _gauge("train_loss"), "held out": _gauge("train_validation_loss")}),
        Panel("Speed", "none", {"clips/s": _rate("train_clips_total"), "steps/s": _rate("train_steps_total")}),
        Panel("Step", "none", {"": _gauge("train_step")}),
        Panel("Waiting for data", "percentunit", {"": _rate("train_data_wait_seconds_total")}),
        Panel("Since the last whole checkpoint", "s", {"": _age("train_checkpoint_timestamp_seconds")}),
        Panel(
            "Skipped steps and new starts",
            "none",
            {
                "{{reason}}": _total("train_skipped_steps_total", "reason"),
                "new starts": "sum(ray_animatediff_train_restarts_total{RUN}) >= 1",
            },
        ),
        Panel("Memory of the first worker", "bytes", {"most so far": _gauge("train_peak_memory_bytes")}),
    ],
    "animate": [
        *_EVERY_JOB,
        Panel("Items", "none", {"{{status}}": _total("animate_items_total", "status")}),
        Panel("Speed", "none", {"items/s": _rate("animate_items_total")}),
        Panel("Workers at work, by stage", "none", {"{{stage}}": _rate("animate_stage_seconds_total", " by (stage) ")}),
        Panel("Model swaps", "none", {"swaps/s": _rate("animate_model_swaps_total")}),
        Panel("Scored clips (score job)", "none", {"{{status}}": _total("score_clips_total", "status")}),
    ],
}
"""By job, in rows of three, beside those of the machines that follow everywhere."""


def dashboard(job: str) -> dict[str, Any]:
    """Return a job's dashboard, for a source of data and a run that are chosen at its head."""
    runs = f'label_values(ray_animatediff_job_ends_total{{job_name="{job}"}}, run)'
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "uid": f"animatediff-{job}",
        "title": f"AnimateDiff {job}",
        "tags": ["animatediff"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                {"name": "run", "type": "query", "datasource": source, "query": runs, "refresh": 2},
            ]
        },
        "panels": [panel.as_json(number) for number, panel in enumerate([*PANELS[job], *_AROUND])],
    }


def as_text(job: str) -> str:
    """Return what is in a job's file: a line a panel, so that changes can be read."""
    board = dashboard(job)
    panels = ",\n".join(f"  {json.dumps(panel)}" for panel in board.pop("panels"))
    return f'{json.dumps(board, indent=1).removesuffix("}").rstrip()},\n "panels": [\n{panels}\n ]\n}}\n'


if __name__ == "__main__":
    for job in PANELS:
        (FOLDER / f"{job}.json").write_text(as_text(job))
