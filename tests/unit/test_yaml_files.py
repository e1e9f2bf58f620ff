"""A YAML file is read or refused in one line, at once, whatever it says."""

from itertools import pairwise

import fsspec
import pytest

from animatediff.config import Config, load
from animatediff.errors import UsageError
from animatediff.yaml_files import read_extended_yaml, read_yaml


class Run(Config):
    """A config."""

    steps: int = 1
    """Steps."""


BILLIONS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijk"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: " + "[" * 30_000, "line 1: more than 64 levels are nested"),
        ("a: " + "{a: " * 30_000, "line 1: more than 64 levels are nested"),
        ("- " * 30_000, "line 1: more than 64 levels are nested"),
        ("\n".join(" " * i + "a:" for i in range(2_000)), "line 65: more than 64 levels are nested"),
        (BILLIONS, "with its aliases written out it has more than 2000000 values"),
        (BILLIONS.replace("[", "{<<: [").replace("]", "]}").replace("{<<: [x]}", "{x: 1}"), "more than 2000000 values"),
        ("a: " + "9" * 5_000, "Exceeds the limit"),
        ("a: 2026-13-45", "month must be in 1..12"),
        ("a: &a [*a]", "line 1: [*]a stands inside itself"),
        ("a: " + "x" * (8 << 20), r"has 8\.4 MB, a YAML file may have 8\.4: name long lists as tables \(entries_uri"),
        ("a: \x00", "is not valid YAML"),
        ("? [1, 2]\n: 3", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_no_file_breaks_the_reading_by_what_it_says(tmp_path, content, problem):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=problem) as caught:
        read_yaml(str(path))
    assert len(str(caught.value)) < 1000


def test_aliases_and_levels_that_people_write_are_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("shared: &s {width: 8, tags: [a, b]}\nentries:\n" + "- {<<: *s, name: x}\n" * 20_000)
    content = read_yaml(str(path))
    assert content["entries"] == [{"width": 8, "tags": ["a", "b"], "name": "x"}] * 20_000


def test_a_message_stays_short_whatever_the_value_and_however_many_there_are(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("steps: " + "x" * 10_000 + "\n" + "".join(f"zz{i}: 1\n" for i in range(5_000)))
    with pytest.raises(UsageError) as caught:
        load(Run, str(path))
    assert len(str(caught.value)) < 10_000


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".yaml").write_text(content)


def test_a_file_is_read_over_what_it_extends(tmp_path):
    write(
        tmp_path,
        company="optim: {lr: 1, ema: {decay: 2}}\nseeds: [1, 2]\nname: company\nbase: x",
        teams__anime="extends: ../company.yaml\noptim: {ema: {decay: 3}}\nseeds: [4]\nbase: null",
        teams__runs__mine="extends: ../anime.yaml\nname: mine\noptim: {steps: 5}",
    )
    assert read_extended_yaml(str(tmp_path / "teams/runs/mine.yaml")) == {
        "optim": {"lr": 1, "ema": {"decay": 3}, "steps": 5},
        "seeds": [4],
        "name": "mine",
        "base": None,
    }


def test_a_file_in_a_store_extends_another_there(tmp_path):
    fsspec.filesystem("memory").pipe({"/team/base.yaml": b"steps: 7", "/team/runs/a.yaml": b"extends: ../base.yaml"})
    assert load(Run, "memory://team/runs/a.yaml") == Run(steps=7)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("extends: a.yaml", "a.yaml extends itself: .*a.yaml -> .*a.yaml"),
        ("extends: ../{folder}/b.yaml", "a.yaml extends itself: .*a.yaml -> .*b.yaml -> .*a.yaml"),
        ("extends: c.yaml", "there is no file .*c.yaml"),
        ("extends: [b.yaml]", "a.yaml: extends: name one YAML file"),
        ("extends: ''", "a.yaml: extends: name one YAML file"),
    ],
)
def test_what_cannot_be_extended_is_told(tmp_path, content, problem):
    write(tmp_path, a=content.replace("{folder}", tmp_path.name), b="extends: ./a.yaml")
    with pytest.raises(UsageError, match=problem):
        load(Run, str(tmp_path / "a.yaml"))
