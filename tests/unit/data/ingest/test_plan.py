"""The plan streams, names its units by content, and takes up where it stopped."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff import storage
from animatediff.data.ingest import plan as planning
from animatediff.data.ingest import provenance
from animatediff.data.sources.spec import SourceVideo
from animatediff.errors import UsageError
from tests.support_data import make_videos, plan

SETTINGS = {"clips": {"num_frames": 2}}


def videos_of(dataset, units):
    return [video for unit in units for video in planning.read_unit(dataset, unit).videos]


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=4), per_unit=st.integers(1, 7), data=st.data())
def test_each_video_is_in_one_unit_however_the_source_grows_and_comes(tmp_path_factory, sizes, per_unit, data):
    dataset = str(tmp_path_factory.mktemp("dataset"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_UNITS_PER_FILE", 3)
        total, before = 0, []
        for size in sizes:
            total += size
            shuffled = data.draw(st.permutations(make_videos(total)))
            units, _ = plan(dataset, shuffled, per_unit=per_unit)
            assert units[: len(before)] == before
            before = units
    planned = videos_of(dataset, units)
    assert sorted(video.video_id for video in planned) == sorted(video.video_id for video in make_videos(total))
    assert [unit.ordinal for unit in units] == list(range(len(units)))
    assert sum(unit.num_videos for unit in units) == total


@settings(max_examples=20)
@given(writes=st.integers(0, 6), batch=st.integers(1, 9))
def test_a_plan_that_was_killed_ends_as_if_it_were_not(tmp_path_factory, writes, batch):
    left = {"writes": writes}
    real = storage.write_bytes

    def dying(*args):
        if not left["writes"]:
            raise KeyboardInterrupt
        left["writes"] -= 1
        real(*args)

    straight, killed = (str(tmp_path_factory.mktemp(name)) for name in ("straight", "killed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_UNITS_PER_FILE", 2)
        expected, _ = plan(straight, make_videos(20))
        with patch.context() as dies:
            dies.setattr(storage, "write_bytes", dying)
            with contextlib.suppress(KeyboardInterrupt):
                plan(killed, make_videos(20))
        units, _ = plan(killed, make_videos(20))
    assert units == expected
    assert videos_of(killed, units) == videos_of(straight, expected) == make_videos(20)


def test_other_settings_are_refused_by_name(tmp_path):
    dataset = str(tmp_path)
    assert not provenance.check_settings(dataset, SETTINGS)
    provenance.write_settings(dataset, SETTINGS)
    assert provenance.check_settings(dataset, SETTINGS)
    with pytest.raises(UsageError, match=r"clips.num_frames: 2 -> 16.*choose another output_uri"):
        provenance.check_settings(dataset, {"clips": {"num_frames": 16}})


def test_selection_sets_aside_with_a_reason(tmp_path):
    videos = [*make_videos(2), SourceVideo("v0", "/other.mp4", "again"), SourceVideo("v9", "/9.mp4", "")]
    videos += [SourceVideo(bad, "/x.mp4", "caption") for bad in ("", "/etc/passwd", "a/../../b")]
    units, rejected = plan(str(tmp_path), videos)
    assert videos_of(str(tmp_path), units) == make_videos(2)
    assert [(row["video_id"], row["uri"], row["reason"]) for row in rejected.to_pylist()] == [
        ("v0", "/other.mp4", "duplicate_id"),
        ("v9", "/9.mp4", "no_caption"),
        ("", "/x.mp4", "bad_id"),
        ("/etc/passwd", "/x.mp4", "bad_id"),
        ("a/../../b", "/x.mp4", "bad_id"),
    ]


def test_a_units_id_says_what_is_in_it(tmp_path):
    ids = [
        plan(str(tmp_path / name), videos)[0][0].unit_id
        for name, videos in {"a": make_videos(3), "b": make_videos(3, start=1), "c": make_videos(9)}.items()
    ]
    assert ids[0] != ids[1]
    assert ids[0] == ids[2]


def test_planning_dry_writes_nothing(tmp_path):
    planner = planning.Planner(None, dataset_key="key", videos_per_unit=3)
    planner.resume(str(tmp_path))
    planner.add(make_videos(7))
    planner.finish()
    assert [unit.num_videos for unit in planner.units] == [3, 3, 1]
    assert not list(tmp_path.iterdir())
