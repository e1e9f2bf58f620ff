from itertools import groupby

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from animatediff.data.curation.selection import REASONS, SelectConfig, meaning_of, select, without_repeated_captions
from animatediff.data.curation.shot_table import SCHEMA
from animatediff.data.shots.hashes import NUM_MOMENTS, NUM_WORDS

LENGTH = NUM_MOMENTS * NUM_WORDS


def shot(video="a", number=0, **columns):
    """A shot of three seconds that every rule takes."""
    hashes = np.random.default_rng([number, *video.encode()]).integers(-(2**63), 2**63, LENGTH).tolist()
    scores = {"motion": 0.1, "moving": 1.0, "static": False, "blank": False, "cut": 0.0, "letterbox": 0.0}
    times = {"start_s": 4.0 * number, "end_s": 4.0 * number + 3}
    names = {"shot_id": f"{video}@{number}", "video_id": video}
    return {**names, **times, **scores, "text": 0.1, "phashes": hashes, "reason": "", **columns}


def selected(shots, **config):
    return select(pa.Table.from_pylist(shots, SCHEMA), SelectConfig(**config))


def reasons(shots, **config):
    return selected(shots, **config)["reason"].to_pylist()


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, ""),
        ({"reason": "too_short", "blank": True}, "too_short"),
        ({"reason": None}, ""),
        ({"blank": True, "static": True}, "blank"),
        ({"static": True, "text": 1.0}, "static"),
        ({"text": 0.5}, "text"),
        ({"text": 0.49}, ""),
        ({"text": None}, ""),
        ({"motion": 0.01}, "where"),
        ({"motion": 0.01, "static": True}, "where"),
        ({"motion": None}, "where"),
    ],
)
def test_a_shot_is_taken_or_has_the_first_reason_that_holds(columns, reason):
    table = selected([shot(**columns)], where="not static and not blank and motion > 0.02")
    assert table["reason"].to_pylist() == [reason]
    assert table["selected"].to_pylist() == [reason == ""]


def test_conditions_are_those_of_ingest():
    slow = shot(number=1, moving=0.1)
    assert reasons([shot(), slow], where="anime") == ["", "where"]
    assert reasons([shot(), slow], where="web") == ["", ""]
    assert reasons([shot(), slow], where="end_s < 4 and video_id == 'a'") == ["", "where"]
    assert reasons([shot(static=True), shot(number=1)], where="static") == ["", "where"]
    assert reasons([shot(static=True, blank=True)], where="true") == [""]


@pytest.mark.parametrize("where", ["motoin > 1", "anmie", "selected", "video == 1", "video_id == 1", "fps", "motion >"])
def test_a_condition_that_cannot_be_is_refused_with_the_config(where):
    with pytest.raises(ValidationError, match="where"):
        SelectConfig(where=where)


def test_a_repeat_of_what_is_not_taken_by_itself_is_taken():
    hashes = shot()["phashes"]
    shots = [shot(video, phashes=hashes) for video in "abc"]
    table = selected(shots)
    assert table["reason"].to_pylist() == ["", "repeat", "repeat"]
    assert table["repeats"].to_pylist() == ["", "a@0", "a@0"]
    table = selected([{**shots[0], "reason": "too_short"}, *shots[1:]])
    assert table["reason"].to_pylist() == ["too_short", "", "repeat"]
    assert table["repeats"].to_pylist() == ["", "", "b@0"]


def test_repeats_may_be_told_and_taken():
    table = selected([shot(video, phashes=shot()["phashes"]) for video in "ab"], drop_repeats=False)
    assert table["repeats"].to_pylist() == ["", "a@0"]
    assert table["reason"].to_pylist() == ["", ""]


def test_caps_are_spread_over_the_video_by_seed():
    shots = [shot(number=number) for number in range(100)]
    chosen = {}
    for seed in range(5):
        taken = [
            number for number, reason in enumerate(reasons(shots, max_shots_per_video=10, seed=seed)) if not reason
        ]
        chosen[seed] = taken
        assert len(taken) == 10
        assert max(np.diff([-1, *taken, 100])) <= 25
    assert len({tuple(taken) for taken in chosen.values()}) == 5


def test_a_cap_in_seconds_is_used_up_as_far_as_shots_fit():
    shots = [shot(number=number) for number in range(20)]
    assert reasons(shots, max_s_per_video=14).count("") == 4
    long = shot(number=20, end_s=200.0)
    taken = reasons([*shots, long], max_s_per_video=30)
    assert taken[20] == "cap"
    assert taken.count("") == 10


def test_other_columns_stay_as_they_are():
    table = pa.Table.from_pylist([shot("a", n, uri="x.mkv", tags=["b"]) for n in range(3)], SCHEMA)
    result = select(table, SelectConfig(max_shots_per_video=1))
    assert result.schema == SCHEMA
    kept = [name for name in SCHEMA.names if name not in ("repeats", "selected", "reason")]
    assert result.select(kept) == table.select(kept)
    assert select(table[:0], SelectConfig(max_s_per_video=1.0)).schema == SCHEMA


@st.composite
def collections(draw):
    """Videos in the order of a plan, with some openings in common, and what is wanted of them."""
    shots = []
    for video in range(draw(st.integers(0, 4))):
        for number in range(draw(st.integers(0, 8))):
            made = shot(f"v{video}", number, end_s=4.0 * number + draw(st.sampled_from([0.5, 2.5, 3.7])))
            made |= draw(st.sampled_from([{}, {}, {}, {"static": True}, {"text": 0.8}, {"reason": "too_short"}]))
            if number < 2 and draw(st.booleans()):
                made["phashes"] = shot("opening", number)["phashes"]
            shots.append(made)
    caps = {
        "max_shots_per_video": draw(st.none() | st.integers(1, 6)),
        "max_s_per_video": draw(st.none() | st.floats(1, 20)),
        "seed": draw(st.integers(0, 3)),
    }
    return shots, caps


@settings(max_examples=40)
@given(collections())
def test_every_shot_is_selected_or_has_a_reason_and_no_video_gives_more_than_its_caps(collection):
    shots, caps = collection
    rows = selected(shots, **caps).to_pylist()
    assert [row["shot_id"] for row in rows] == [made["shot_id"] for made in shots]
    for row in rows:
        assert row["selected"] == (row["reason"] == "")
        assert row["reason"] in {"", *REASONS}
        assert (row["repeats"] != "") == (row["reason"] == "repeat")
    for _, group in groupby((row for row in rows if row["selected"]), key=lambda row: row["video_id"]):
        lengths = [row["end_s"] - row["start_s"] for row in group]
        assert len(lengths) <= (caps["max_shots_per_video"] or len(lengths))
        assert sum(lengths) <= (caps["max_s_per_video"] or sum(lengths)) + 1e-9


@settings(max_examples=40)
@given(collections())
def test_videos_that_are_added_change_no_decision_before(collection):
    shots, caps = collection
    whole = selected(shots, **caps)
    ends = [number for number, made in enumerate(shots) if number and made["video_id"] != shots[number - 1]["video_id"]]
    for end in ends:
        assert selected(shots[:end], **caps).to_pylist() == whole[:end].to_pylist()


def captioned(captions, **columns):
    shots = [shot(number=n, caption=c, selected=bool(c), **columns) for n, c in enumerate(captions)]
    return pa.Table.from_pylist(shots, SCHEMA)


def left_out(table, most=0.0):
    found = without_repeated_captions(table, most)
    assert found.schema == SCHEMA
    assert found["selected"].to_pylist() == [not r and bool(c) for r, c in zip(*columns_of(found), strict=True)]
    return [n for n, reason in enumerate(found["reason"].to_pylist()) if reason == "repeated_caption"]


def columns_of(table):
    return table["reason"].to_pylist(), table["caption"].to_pylist()


def test_a_caption_of_many_unlike_shots_is_no_caption_of_any():
    table = captioned(["A man.", "A dog.", "a man.", None, "A man.", "A dog.", "A man.", "A dog."])
    assert left_out(table) == [0, 2, 4, 6]
    assert left_out(table, most=0.6) == []  # four of seven
    assert "recaption: all" in meaning_of("repeated_caption")


def test_shots_that_look_alike_may_share_a_caption():
    hashes = shot()["phashes"]
    assert left_out(captioned(["A man."] * 9, phashes=hashes)) == []
    assert left_out(captioned(["A man."] * 9, phashes=None)) == list(range(9))
