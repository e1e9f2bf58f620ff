"""A YAML file is read or refused in one line, at once, whatever it says."""

from itertools import pairwise

import pytest

from animatediff.config import Config, load
from animatediff.errors import UsageError
from animatediff.yaml_files import read_yaml


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
