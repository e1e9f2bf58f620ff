"""The READMEs' examples work: YAML loads as the config that its first line names, commands parse, Python runs."""

import shlex

import pytest

from animatediff import config
from animatediff.rendering.catalog.reading.catalog_files import CatalogFile
from animatediff.rendering.results import ledger, table
from animatediff.rendering.results.result import Result
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, ScoreConfig, TrainJobConfig
from tests.readmes import markdown
from tests.readmes.markdown import ROOT
from tests.unit.data.loading.test_loader import write_dataset

READMES = markdown.readmes()
JOBS = {
    "curate.py": CurateConfig,
    "ingest.py": IngestConfig,
    "train.py": TrainJobConfig,
    "animate.py": AnimateConfig,
    "score.py": ScoreConfig,
}
SCHEMAS = {name.replace(".py", ".yaml"): schema for name, schema in JOBS.items()} | {"catalog.yaml": CatalogFile}
YAML = [block for readme in READMES for block in markdown.blocks(readme, "yaml")]
PYTHON = [readme for readme in READMES if markdown.blocks(readme, "python")]


def job_commands(readme):
    """The commands of a README that start a job: its file's name, and the arguments."""
    for line in markdown.commands(readme):
        words = shlex.split(line)
        for place, word in enumerate(words):
            if word.startswith("pipelines/") and word.removeprefix("pipelines/") in JOBS:
                yield word.removeprefix("pipelines/"), words[place + 1 :]


@pytest.mark.parametrize("block", YAML, ids=lambda block: f"{markdown.name(block.readme)}:{block.title}")
def test_yaml_loads_as_what_its_first_line_says(block, tmp_path):
    assert block.title in SCHEMAS, "a first line like `# ingest.yaml: what it is` says which config it is"
    (tmp_path / block.title).write_text(block.text)
    config.load(SCHEMAS[block.title], str(tmp_path / block.title))


def test_the_top_readme_starts_every_job():
    assert {job for job, _ in job_commands(ROOT / "README.md")} == JOBS.keys()


@pytest.mark.parametrize("readme", READMES, ids=markdown.name)
def test_commands_of_jobs_parse(readme, tmp_path, monkeypatch):
    for block in YAML:
        if block.readme == readme:
            (tmp_path / block.title).write_text(block.text)
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    monkeypatch.chdir(tmp_path)
    for job, arguments in job_commands(readme):
        if arguments:  # without any, a job runs the embedded default
            config.parse(JOBS[job], arguments)


@pytest.mark.parametrize("readme", PYTHON, ids=markdown.name)
def test_python_runs(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_dataset("runs/sprites/dataset", shards=(6,), shapes=((16, 8, 8, 8),))
    done = Result(digest="d", entry="base", model="m", prompt="p", seed=0, status="ok", files={"mp4": "clips/d.mp4"})
    (tmp_path / "runs/sprites/animate/clips").mkdir(parents=True)
    (tmp_path / "runs/sprites/animate/clips/d.mp4").write_bytes(b"mp4")
    ledger.write_item("runs/sprites/animate", done)
    table.write_table("runs/sprites/animate", [done])
    names: dict[str, object] = {}
    for block in markdown.blocks(readme, "python"):
        exec(compile(block.text, markdown.name(readme), "exec"), names)
