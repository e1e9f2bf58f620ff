"""What a node answers of itself; its checks run in this process, as they would in the actor's."""

import threading

import pytest

from animatediff.errors import UserError
from pipelines.stages.preflight import checks, node
from pipelines.stages.preflight.checks import Check
from pipelines.stages.preflight.needs import Needs
from pipelines.stages.preflight.node import Node, versions


def broken(needs):
    raise ImportError("libcuda.so.1: no such file\nor so")


def refused(needs):
    raise UserError("the bucket is closed")


def test_a_check_that_fails_or_hangs_is_a_row_and_the_others_go_on(tmp_path, monkeypatch):
    never = threading.Event()
    answers = {
        "well": lambda needs: needs.output_uri,
        "unneeded": lambda needs: None,
        "broken": broken,
        "refused": refused,
        "hangs": lambda needs: str(never.wait()),
    }
    monkeypatch.setattr(checks, "CHECKS", [Check(name, run, f"mend {name}") for name, run in answers.items()])
    monkeypatch.setattr(node, "CHECK_S", 0.5)
    rows = {row.check: row for row in Node("10.0.0.1").check(Needs(str(tmp_path)))}
    assert rows.keys() == answers.keys() - {"unneeded"}
    assert {row.node for row in rows.values()} == {"10.0.0.1"}
    assert (rows["well"].text, rows["well"].remedy) == (str(tmp_path), None)
    assert rows["broken"].text == "ImportError: libcuda.so.1: no such file or so"
    assert rows["refused"] == ("refused", "10.0.0.1", "the bucket is closed", "mend refused")
    assert rows["hangs"].text.startswith("no answer within")


def test_the_revision_is_that_of_the_code():
    assert versions() == versions()
    assert {"code", "ray", "torch", "diffusers"} <= versions().keys()


def test_an_output_that_is_another_folder_here(tmp_path):
    needs = Needs(str(tmp_path))
    with pytest.raises(UserError, match="it is another folder here"):
        checks._write_output(needs)
    (tmp_path / checks.TOKEN).touch()
    assert checks._write_output(needs) == "written, read and deleted"
    assert [path.name for path in tmp_path.iterdir()] == [checks.TOKEN]
