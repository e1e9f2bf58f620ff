"""A unit that cannot be fetched is put aside where its storage works, and stays pending where it is down."""

import pytest

from animatediff.data.ingest import outage, plan
from animatediff.data.ingest.plan import Planner
from animatediff.data.quarantine import Reason, VideoError
from animatediff.data.sources.spec import SourceVideo

PLACES = {
    "web": "https://cdn.example/{}.mp4",
    "other": "https://other.example/{}.mp4",
    "third": "http://third.example:8080/{}.mp4",
    "bucket": "s3://videos/{}.mp4",
    "other bucket": "s3://more/{}.mp4",
    "disk": "/data/{}.mp4",
    "tar": "s3://videos/a.tar#offset={}&bytes=10",
    "other tar": "s3://videos/b.tar#offset={}&bytes=10",
}


@pytest.fixture
def works(tmp_path, monkeypatch):
    """Whether the storage of the unit `failing` of a plan works, and what was tried; two videos make up a unit."""

    def ask(places, failing, down, reason=Reason.FETCH_ERROR):
        planner = Planner(str(tmp_path), dataset_key="k", videos_per_unit=2)
        planner.add(SourceVideo(str(i), PLACES[place].format(i), "a") for i, place in enumerate(places))
        planner.finish()
        tried = []

        def ask_for(uri, *, max_bytes, trusted):
            tried.append(uri)
            if any(uri.startswith(PLACES[place].partition("{")[0]) for place in down):
                raise VideoError("fetch", reason, "503")

        monkeypatch.setattr(outage, "ask_for_video", ask_for)
        unit = plan.read_unit(str(tmp_path), planner.units[failing])
        answer = outage.storage_works(str(tmp_path), unit, max_bytes=1, trusted=False)
        assert not {video.uri for video in unit.videos} & set(tried)
        return answer, len(tried)

    return ask


@pytest.mark.parametrize(
    ("places", "failing", "down", "answer"),
    [
        # A short last unit on a bucket, a server and a disk that work.
        (["bucket"] * 5, 2, [], (True, 1)),
        (["web"] * 5, 2, [], (True, 1)),
        (["disk"] * 5, 2, [], (True, 1)),
        (["tar"] * 5, 2, [], (True, 1)),
        (["tar", "tar", "other tar"], 1, [], (True, 1)),
        # A list sorted by hosts, one of which is dead.
        (["web"] * 10 + ["other"] * 2, 0, ["web"], (True, 4)),
        (["other"] * 2 + ["web"] * 4, 2, ["web"], (True, 3)),
        (["web"] * 2 + ["other"] * 6 + ["third"] * 2, 0, ["web", "other"], (True, 2)),
        # An outage: of the network, of the one bucket that there is, of a bucket beside another.
        (["web"] * 4 + ["other"] * 4 + ["third"] * 2, 1, ["web", "other", "third"], (False, 4)),
        (["bucket"] * 20, 0, ["bucket"], (False, 3)),
        (["bucket"] * 4 + ["other bucket"] * 8, 0, ["bucket"], (False, 2)),
        (["bucket"] * 4 + ["disk"] * 8 + ["web"] * 2, 0, ["bucket"], (False, 2)),
        # Nothing else to ask.
        (["disk"] * 2, 0, [], (False, 0)),
        (["bucket"], 0, [], (False, 0)),
    ],
)
def test_other_videos_tell_an_outage_from_videos_that_are_gone(works, places, failing, down, answer):
    assert works(places, failing, down) == answer


@pytest.mark.parametrize(
    ("reason", "answer"), [(Reason.TOO_LARGE, True), (Reason.NOT_FOUND, False), (Reason.FETCH_REFUSED, False)]
)
def test_what_a_storage_says_of_others(works, reason, answer):
    assert works(["bucket"] * 8, 0, ["bucket"], reason)[0] is answer


def test_videos_of_the_whole_plan_are_tried(works, monkeypatch):
    monkeypatch.setattr(plan, "_UNITS_PER_FILE", 2)
    # Only the last of 40 segments is on a server that works.
    assert works(["web"] * 156 + ["other"] * 4, 0, ["web"]) == (True, 4)


@pytest.mark.parametrize("number", [0, 1, 2, 5, 8, 13])
def test_the_first_few_lie_far_apart(number):
    uris = [str(i) for i in range(number)]
    spread = outage._from_all_over(uris)
    assert sorted(spread) == sorted(uris)
    if number >= 8:
        assert spread[:4] == ["0", "8", "4", "12"] if number > 12 else ["0", "4", "2", "6"]
