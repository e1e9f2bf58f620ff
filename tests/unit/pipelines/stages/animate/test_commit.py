"""What a worker of the animate job commits: the files, then the result, and never the one without the other."""

from pathlib import Path

import numpy as np
import pytest
import torch

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.catalog.controls import ControlSpec
from animatediff.rendering.conditions.condition_sheet import ShownCondition, ShownPicture
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import read_item
from pipelines.stages.animate.commit import Committer
from pipelines.stages.animate.dispatch import MAX_DEATHS
from tests.unit.pipelines.stages.animate.stubs import assignment_of, grey_clip, items_of


@pytest.fixture
def committer(tmp_path):
    return Committer(str(tmp_path), ("mp4", "png"), 18, "cpu")


def commit(committer, item, outcome, attempts=1, **assignment):
    return committer.commit(assignment_of([item], **assignment), item, outcome, attempts=attempts, load_s=0.5)


def test_a_clip_is_its_files_and_a_result_that_names_them(committer, tmp_path):
    (item,) = items_of("a")
    result = commit(committer, item, grey_clip())
    assert (result.status, result.attempts) == ("ok", 1)
    assert set(result.files) == {"mp4", "png", "poster"}
    assert storage.exists(str(tmp_path / result.files["mp4"]))
    assert clip_files.first_damaged(str(tmp_path), result) is None
    assert result.seconds.keys() == {"load", "unet", "encode", "write"}
    assert read_item(str(tmp_path), item.digest) == result


def test_a_result_names_the_weights_of_its_model_and_of_its_own_networks(committer):
    led, plain = (
        items_of("a", controls=controls)[0] for controls in ((ControlSpec(net="n.pt", pictures="p.png"),), ())
    )
    assignment = assignment_of([led, plain])._replace(network_hashes={"n.pt": "2", "other.pt": "3"})
    found = [committer.commit(assignment, item, grey_clip(), attempts=1, load_s=0) for item in (led, plain)]
    assert [result.model_hashes for result in found] == [{"b": "1", "n.pt": "2"}, {"b": "1"}]


def test_a_result_tells_how_the_unet_computed_where_the_catalog_says_it(committer):
    (item,) = items_of("a")
    plain = assignment_of([item])
    said = plain._replace(model=plain.model.model_copy(update={"precision": "bfloat16", "compile": True}))
    found = [committer.commit(each, item, grey_clip(), attempts=1, load_s=0) for each in (plain, said)]
    assert found[1].versions == found[0].versions | {"precision": "bfloat16", "compile": "True"}
    assert found[1].sha256 != found[0].sha256  # the files tell it, too


def test_what_led_a_clip_is_one_more_file_of_the_result(committer, tmp_path):
    led, plain = items_of("a", "b")
    conditions = (
        ShownCondition("control 1: ControlNet", (ShownPicture(np.zeros((16, 16, 3), np.uint8), "every frame"),)),
    )
    result = commit(committer, led, grey_clip()._replace(conditions=conditions))
    assert list(result.files) == ["mp4", "png", "condition", "poster"]  # the table's `uri` is the first
    path = Path(tmp_path, result.files["condition"])
    assert path.name == f"{led.digest[:16]}.condition.webp"
    assert result.num_bytes["condition"] == path.stat().st_size
    assert clip_files.first_damaged(str(tmp_path), result) is None
    path.write_bytes(b"another picture")
    assert clip_files.first_damaged(str(tmp_path), result) == result.files["condition"]
    without = commit(committer, plain, grey_clip())
    assert "condition" not in without.files | without.sha256 | without.num_bytes


def test_a_failure_is_a_result_too(committer, tmp_path):
    item, hungry = items_of("a", "b")
    result = commit(committer, item, ValueError("no such thing"), attempts=2)
    assert (result.status, result.error, result.attempts) == ("failed", "ValueError: no such thing", 2)
    assert read_item(str(tmp_path), item.digest) == result
    told = commit(committer, hungry, torch.OutOfMemoryError("CUDA out of memory"))
    assert "out of memory with a single clip" in told.error


def test_a_death_counts_as_an_attempt(committer):
    (item,) = items_of("a")
    assert commit(committer, item, grey_clip(), crash_suspects=[item.digest]).attempts == 2


def test_without_its_files_nothing_is_committed(committer, tmp_path, monkeypatch):
    def refuse(uri, data):
        raise UserError("permission denied")

    (item,) = items_of("a")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", refuse)
        with pytest.raises(UserError, match="permission denied"):
            commit(committer, item, grey_clip())
    assert read_item(str(tmp_path), item.digest) is None


def test_what_is_settled_is_not_rendered(committer, tmp_path):
    done, deadly, left = items_of("a", "b", "c")
    result = commit(committer, done, grey_clip())
    assignment = assignment_of([done, deadly, left], given_up={deadly.digest: "workers died of it"})
    assert committer.existing_result(assignment, done) == result
    given_up = committer.existing_result(assignment, deadly)
    assert (given_up.status, given_up.error, given_up.attempts) == ("failed", "workers died of it", MAX_DEATHS)
    assert read_item(str(tmp_path), deadly.digest) == given_up
    assert committer.existing_result(assignment, left) is None
