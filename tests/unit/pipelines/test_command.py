"""The jobs' command lines: what is told before torch and Ray are imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import command
from pipelines.settings import AnimateConfig, IngestConfig, ScoreConfig, TrainJobConfig

CONFIGS = Path(command.__file__).parent / "configs" / "sprites"
SCHEMAS = {"ingest": IngestConfig, "train": TrainJobConfig, "animate": AnimateConfig, "score": ScoreConfig}


def refused(monkeypatch, caplog, job, *argv):
    """The one line with which a job's command line ends; exit code 2."""
    monkeypatch.setattr(sys, "argv", ["job", *map(str, argv)])
    monkeypatch.setattr(command, "configure_logging", lambda: None)  # it would take pytest's place

    def main(_):
        raise AssertionError("the job was started")

    with pytest.raises(SystemExit) as ended:
        command.run_job(main, SCHEMAS[job])
    assert ended.value.code == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "\n" not in line
    return line


def test_a_command_line_is_read_without_what_takes_seconds_to_import():
    program = (
        "import sys; from pipelines import animate, embedded, ingest, score, train;"
        "print(*sys.modules.keys() & {'torch', 'ray', 'diffusers', 'transformers', 'mlflow', 'pandas'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("job", "file", "says"),
    [
        ("train", "ingest.yaml", "looks like a config of ingest: give it to python pipelines/ingest.py"),
        ("ingest", "train.yaml", "looks like a config of train: "),
        ("animate", "train.yaml", "looks like a config of train: "),
        ("animate", "score.yaml", "looks like a config of score: "),
        ("score", "animate.yaml", "looks like a config of animate: "),
        ("animate", "catalog.yaml", "looks like a catalog: name it as catalog_uri"),
    ],
)
def test_the_config_of_another_job(monkeypatch, caplog, job, file, says):
    assert says in refused(monkeypatch, caplog, job, "--config", CONFIGS / file)


@pytest.mark.parametrize(
    ("job", "line", "says"),
    [
        ("train", "output_urii: x", "unknown field 'output_urii', did you mean 'output_uri'?"),
        ("train", "batch_size: 4", "unknown field 'batch_size', did you mean 'train.batch_size'?"),
        ("ingest", "clips: {frames: 4}", "unknown field 'clips.frames', did you mean 'clips.num_frames'?"),
        ("train", "where: moton > ", "where 'moton >'"),
        ("train", "mix: {dataset_uri: a, where: 'motion > 0.1 andd cut < 1'}", "where 'motion > 0.1 andd cut < 1'"),
        ("train", "where: wbe", "'wbe' is neither a column nor a preset, did you mean 'web'?"),
        ("train", "where: 1 < 2", "names no column"),
    ],
)
def test_what_a_config_says_wrong(monkeypatch, caplog, tmp_path, job, line, says):
    (tmp_path / "run.yaml").write_text((CONFIGS / f"{job}.yaml").read_text().partition("\nclips:")[0] + f"\n{line}\n")
    assert says in refused(monkeypatch, caplog, job, "--config", tmp_path / "run.yaml")
