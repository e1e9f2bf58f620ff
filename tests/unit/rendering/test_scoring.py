"""Any function can score clips; what it cannot say is left out, and what is no function is refused with the remedy."""

import math

import numpy as np
import pytest

from animatediff.errors import UserError
from animatediff.rendering.results.result import Result
from animatediff.rendering.scoring import apply_scorer, load_scorer, mean_scores, with_scores

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)


def result(entry="toon", **changes):
    return Result(
        **({"digest": "d", "entry": entry, "model": "m", "prompt": "a cat", "seed": 0, "status": "ok"} | changes)
    )


def brightness(result, frames):
    return {"mean": frames.mean(), "length": np.int64(len(frames)), "unknown": math.nan, "endless": math.inf}


def test_a_scorer_is_named_by_its_import_path():
    assert load_scorer(f"{__name__}:brightness") is brightness


@pytest.mark.parametrize(
    "path", ["", "math", "math:", ":sqrt", "math:nothing", "no_such_module:f", "math:pi", ".relative:f", "os.path:"]
)
def test_what_is_no_function_is_refused_with_the_remedy(path):
    with pytest.raises(UserError, match=r"package\.module:function"):
        load_scorer(path)


def test_scores_are_plain_finite_floats():
    scores = apply_scorer(brightness, result(), FRAMES)
    assert scores == {"mean": 0.0, "length": 2.0}
    assert [type(value) for value in scores.values()] == [float, float]


def test_means_are_taken_over_the_clips_that_have_the_score():
    results = [
        result("b", scores={"my:s": {"x": 1.0}, "other:s": {"x": 9.0}}),
        result("b", scores={"my:s": {"x": 0.0, "y": 3.0}}),
        result("b"),
        result("a", scores={"my:s": {"y": 2.0}}),
    ]
    means = mean_scores(results, "my:s")
    assert means == {"b": {"x": 0.5, "y": 3.0}, "a": {"y": 2.0}}
    assert list(means) == ["b", "a"]
    assert mean_scores(results, "other:s") == {"b": {"x": 9.0}}
    assert mean_scores([result()], "my:s") == {}


def test_a_second_scorer_leaves_what_the_first_one_measured():
    first = with_scores(result(), "my:s", {"x": 1.0, "y": 2.0})
    both = with_scores(first, "other:s", {"x": 3.0})
    assert both.scores == {"my:s": {"x": 1.0, "y": 2.0}, "other:s": {"x": 3.0}}
    assert with_scores(both, "my:s", {"x": 4.0}).scores == {"my:s": {"x": 4.0}, "other:s": {"x": 3.0}}


def test_why_a_scorer_gave_nothing_is_kept_until_it_gives_something():
    first = with_scores(result(), "my:s", {"x": 1.0})
    failed = with_scores(first, "other:s", {}, error="no face")
    assert (failed.scores, failed.score_errors) == ({"my:s": {"x": 1.0}, "other:s": {}}, {"other:s": "no face"})
    lost = with_scores(failed, "my:s", None, error="crashed")  # which is to be tried again
    assert (lost.scores, lost.score_errors) == ({"other:s": {}}, {"my:s": "crashed", "other:s": "no face"})
    again = with_scores(with_scores(lost, "my:s", {"x": 1.0}), "other:s", {"z": 0.0})
    assert (again.scores, again.score_errors) == ({"my:s": {"x": 1.0}, "other:s": {"z": 0.0}}, {})
