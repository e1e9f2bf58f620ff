"""Parts of scanning and of captioning: what is committed is read back; captions that are asked for anew."""

import pytest

from animatediff.data.curation import caption_parts, scan_parts
from animatediff.data.curation.caption_parts import ShotCaption
from animatediff.data.curation.shot_table import SCHEMA
from animatediff.data.quarantine import Reason, Rejection
from animatediff.errors import UsageError, UserError
from tests.support_shots import commit_video, shot

SETTINGS = {"prompt": "what is seen?", "frames": 8}


def caption(shot_id, reason=""):
    return ShotCaption(shot_id, "" if reason else f"of {shot_id}", ("a tag",), "model", reason)


def test_shots_are_read_back_in_the_plans_order_with_nulls_for_what_comes_later(tmp_path):
    units = [commit_video(tmp_path, n, [shot(0), shot(1, reason="too_short", scores={})]) for n in (2, 1)]
    rows = scan_parts.read_shots(str(tmp_path), units)
    assert rows.schema == SCHEMA
    assert rows["shot_id"].to_pylist() == [
        f"episode-{n}@{times}" for n in (2, 1) for times in ("000000000-000003000", "000004000-000007000")
    ]
    first = rows.slice(0, 1).to_pylist()[0]
    assert (first["crop_x"], first["crop_y"], first["crop_w"], first["crop_h"]) == (0, 40, 640, 280)
    assert (first["border_before"], first["border_after"], first["time_base"]) == ("cut", "dissolve", "1/1000")
    assert first["motion"] is not None
    assert rows["motion"][1].as_py() is None
    assert {rows[name].null_count for name in ("selected", "caption", "video")} == {4}


def test_previews_and_rejections_are_read_back(tmp_path):
    bad = Rejection("v", "/v.mp4", "unit-1", "probe", Reason.NOT_VIDEO, "no format")
    unit = commit_video(tmp_path, 1, [shot(0)], rejections=[bad])
    (pictures,) = scan_parts.read_previews(str(tmp_path), unit).values()
    assert [picture[:2] for picture in pictures] == [b"\xff\xd8"] * 3
    assert scan_parts.read_rejections(str(tmp_path), [unit]) == [bad]


def test_a_damaged_part_is_named(tmp_path):
    unit = commit_video(tmp_path, 1, [shot(0)])
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UserError, match=part.name):
        scan_parts.read_shots(str(tmp_path), [unit])


def test_answers_are_read_back_whatever_the_batches(tmp_path):
    uri = str(tmp_path)
    assert caption_parts.find_generation(uri, SETTINGS, None, "no") == 0
    caption_parts.begin_generation(uri, 0, SETTINGS)
    answers = [caption("a"), caption("b", "caption_refused"), caption("c")]
    caption_parts.commit(uri, 0, answers[:2])
    caption_parts.commit(uri, 0, answers[2:])
    caption_parts.commit(uri, 0, answers[2:])  # a batch that was committed twice
    assert caption_parts.read(uri, 0) == {answer.shot_id: answer for answer in answers}


def test_other_settings_are_refused_with_the_remedy(tmp_path):
    caption_parts.begin_generation(str(tmp_path), 0, SETTINGS)
    with pytest.raises(UsageError, match=r"frames: 8 -> 4.*recaption to all"):
        caption_parts.find_generation(str(tmp_path), SETTINGS | {"frames": 4}, None, "no")


def test_asking_again_begins_a_generation_once_and_continues_it_when_it_was_stopped(tmp_path):
    uri, other = str(tmp_path), SETTINGS | {"frames": 4}
    caption_parts.begin_generation(uri, 0, SETTINGS)
    assert caption_parts.find_generation(uri, SETTINGS, 0, "all") == 1
    caption_parts.begin_generation(uri, 1, other, [caption("a")])
    # Not sealed yet: the same command goes on in it, and another question begins another.
    assert caption_parts.find_generation(uri, other, 0, "all") == 1
    assert caption_parts.find_generation(uri, SETTINGS, 0, "all") == 2
    assert caption_parts.find_generation(uri, other, 1, "all") == 2
    assert caption_parts.find_generation(uri, other, 1, "no") == 1
    assert set(caption_parts.read(uri, 1)) == {"a"}


def test_a_generation_that_was_killed_before_its_settings_is_none(tmp_path):
    uri = str(tmp_path)
    caption_parts.begin_generation(uri, 0, SETTINGS)
    caption_parts.commit(uri, 1, [caption("a")])
    assert caption_parts.find_generation(uri, SETTINGS, 0, "no") == 0
    assert caption_parts.find_generation(uri, SETTINGS, 0, "failed") == 1
