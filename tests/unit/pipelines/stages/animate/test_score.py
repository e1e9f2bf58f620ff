"""The score job: each scorer goes through the clips that it has not been through, and leaves the others' scores."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from animatediff import storage
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results import clip_files
from animatediff.rendering.results.ledger import make_result, read_item, read_results, write_item
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import write_table
from pipelines.settings import ScoreConfig
from pipelines.stages.animate import score_driver, score_worker

BRIGHTNESS, LENGTH, BROKEN = (f"{__name__}:{name}" for name in ("brightness", "length", "broken"))


def brightness(result, frames):
    return {"mean": frames.mean()}


def length(result, frames):
    return {"length": len(frames), "mean": 9.0}


def broken(result, frames):
    raise ValueError("no face")


@pytest.fixture
def output(tmp_path, monkeypatch):
    """Two rendered clips, which are scored in this process."""
    frames = np.full((4, 8, 8, 3), 2, np.uint8)
    monkeypatch.setattr(clip_files, "read_frames", lambda output_uri, result: frames)
    monkeypatch.setattr(score_driver, "connect", lambda: None)
    monkeypatch.setattr(score_driver, "score_results", scored_here)
    items = [Item(digest=f"{n:064d}", entry="one", model="m", prompt="a cat", seed=n) for n in range(2)]
    for item in items:
        path = f"clips/{item.digest[-8:]}.mp4"
        storage.write_bytes(str(tmp_path / path), b"clip")
        write_item(str(tmp_path), make_result(item, status="ok", files={"mp4": path}))
    write_table(str(tmp_path), [read_item(str(tmp_path), item.digest) for item in items])
    return tmp_path


def scored_here(results, output_uri, scorer):
    for result in results:
        row = score_worker._score_row({"result": result.model_dump_json()}, output_uri=output_uri, scorer=scorer)
        yield Result.model_validate_json(row["result"])


def score(output, scorer, **options):
    return score_driver.score(ScoreConfig(output_uri=str(output), scorer=scorer, **options))


def test_a_second_scorer_stands_beside_the_first(output):
    score(output, BRIGHTNESS)
    results = score(output, LENGTH)
    both = {BRIGHTNESS: {"mean": 2.0}, LENGTH: {"length": 4.0, "mean": 9.0}}
    assert [result.scores for result in results] == [both] * 2
    assert read_results(str(output)) == results
    assert read_item(str(output), results[0].digest).scores == both
    rows = pq.read_table(output / "results.parquet").to_pylist()
    assert {name: dict(found) for name, found in rows[0]["scores"]} == both
    page = (output / "index.html").read_text()
    assert BRIGHTNESS in page
    assert LENGTH in page


def test_a_scorer_that_fails_costs_the_others_nothing(output, caplog):
    score(output, BRIGHTNESS)
    (first, _) = score(output, BROKEN)
    assert first.scores == {BRIGHTNESS: {"mean": 2.0}, BROKEN: {}}
    assert first.score_errors == {BROKEN: "ValueError: no face"}
    assert "2 clips have no scores, first (entry one): ValueError: no face" in caplog.text


def test_a_scorer_goes_through_a_clip_once_unless_it_is_told_to(output, monkeypatch):
    results = score(output, BRIGHTNESS)
    asked = []
    monkeypatch.setattr(score_driver, "score_results", lambda pending, *_: asked.append(len(pending)) or ())
    assert score(output, BRIGHTNESS) == results
    assert not asked
    score(output, BRIGHTNESS, again=True)
    score(output, LENGTH)
    assert asked == [2, 2]
