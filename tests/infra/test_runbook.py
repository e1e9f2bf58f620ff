"""The runbook's commands exist, with the flags that it gives them; its links and anchors lead somewhere."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli

from animatediff import config
from pipelines.settings import AnimateConfig, CurateConfig, IngestConfig, TrainJobConfig
from tests.readmes import markdown
from tests.readmes.markdown import ROOT

RUNBOOK = ROOT / "infra" / "runbook.md"
JOBS = {"curate": CurateConfig, "ingest": IngestConfig, "train": TrainJobConfig, "animate": AnimateConfig}


def whole_commands():
    """The commands, each with all lines of a text in quotes."""
    pending = ""
    for line in markdown.commands(RUNBOOK):
        pending = f"{pending}\n{line}" if pending else line
        try:
            shlex.split(pending)
        except ValueError:  # a quotation that goes on
            continue
        yield pending
        pending = ""


COMMANDS = list(whole_commands())


def words_of(command):
    """The words up to a pipe or a second command; `$( )` and here-documents do not stand in the runbook."""
    words = shlex.split(command)
    ends = [place for place, word in enumerate(words) if word in ("|", "&&", ">", "2>&1")]
    return words[: min(ends, default=len(words))]


def starting_with(program):
    return [words for words in map(words_of, COMMANDS) if words[0] == program]


def job_commands():
    for words in map(words_of, COMMANDS):
        for place, word in enumerate(words):
            if word.startswith("pipelines/"):
                yield word.removeprefix("pipelines/").removesuffix(".py"), words[place + 1 :]


@pytest.mark.parametrize(("job", "arguments"), list(job_commands()), ids=lambda value: " ".join(value[-3:]))
def test_jobs_take_their_flags(job, arguments, tmp_path, monkeypatch):
    for name in JOBS:
        (tmp_path / f"{name}.yaml").write_bytes((ROOT / f"infra/kuberay/jobs/configs/{name}.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert job in {*JOBS, "JOB", "preflight"}
    if job == "preflight":
        assert (ROOT / "pipelines/preflight.py").exists()
        assert arguments[0] == "--config"
    elif job == "JOB":
        assert arguments == ["--config", "JOB.yaml"]
    else:
        config.parse(JOBS[job], arguments)


@pytest.mark.parametrize("words", starting_with("ray"), ids=lambda words: " ".join(words[:3]))
def test_ray_takes_its_flags(words):
    command, rest = ray_cli, words[1:]
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, words
        command, rest = command.commands[rest[0]], rest[1:]
    known = {name for parameter in command.params for name in parameter.opts}
    given = {word for word in rest[: rest.index("--") if "--" in rest else len(rest)] if word.startswith("--")}
    assert given <= known


@pytest.mark.parametrize("words", starting_with("animatediff"), ids=lambda words: words[1])
def test_the_command_has_its_subcommands(words):
    done = subprocess.run([sys.executable, "-m", "animatediff", words[1], "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_scripts_and_make_targets_exist():
    scripts = {word for words in map(words_of, COMMANDS) for word in words if word.startswith("infra/")}
    assert all((ROOT / script.split("/overlays")[0]).exists() for script in scripts), scripts
    targets = {line.partition(":")[0] for line in Path(ROOT / "Makefile").read_text().splitlines() if ":" in line}
    used = {part.split()[1] for command in COMMANDS for part in command.split("&&") if part.split()[0] == "make"}
    assert used
    assert used <= targets


@pytest.mark.parametrize(
    "code", [words[2] for words in starting_with("python") if words[1] == "-c"], ids=["quarantine", "results"]
)
def test_what_it_reads_of_tables_is_in_them(code, tmp_path, monkeypatch):
    import pandas as pd

    rows = pd.DataFrame(
        {
            **{"stage": ["fetch"], "reason": ["not_found"], "uri": ["a.mp4"], "detail": ["gone"]},
            **{"status": ["failed"], "entry": ["a"], "error": ["broken"]},
        }
    )
    monkeypatch.setattr(pd, "read_parquet", lambda uri: rows)
    exec(code, {})


def test_links_lead_to_headings():
    anchors = markdown.anchors(RUNBOOK)
    links = markdown.links(RUNBOOK)
    assert len(links) > 5
    assert {link.removeprefix("#") for link in links} <= anchors, json.dumps(sorted(anchors))
