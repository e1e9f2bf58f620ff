"""A stage that has lost its place for good, while another has all the room that is left."""

import threading

import pytest

from pipelines.cluster import starved_stages
from pipelines.cluster.stage import Pool
from pipelines.cluster.starved_stages import shrink_to_fit
from pipelines.stages.ingest.decode import Decode
from pipelines.stages.ingest.encode import Encode
from pipelines.stages.ingest.score import Score

CPU, GPU = {"CPU": 0.5}, {"CPU": 0.5, "GPU": 1.0}


def pools(decoders, encoders, encoder_needs=CPU, **more):
    return {Decode: Pool(decoders, CPU), **more, Encode: Pool(encoders, encoder_needs)}


@pytest.mark.parametrize(
    ("now", "total", "smaller_pools"),
    [
        (pools(2, 4), {"CPU": 4}, None),  # there is room for all
        (pools(2, 4), {"CPU": 3}, None),
        (pools(2, 4), {"CPU": 2}, pools(1, 2)),
        (pools(1, 5), {"CPU": 1}, pools(1, 1)),
        (pools(2, 4), {"CPU": 0.5}, None),  # not even for one of each: a machine must come
        (pools(2, 4), {"CPU": 0}, None),
        (pools(20, 4, GPU), {"CPU": 16, "GPU": 2}, pools(10, 2, GPU)),
        (pools(20, 4, GPU), {"CPU": 64}, None),
        ({Decode: Pool(2, CPU), Score: Pool(2, {"CPU": 0}), Encode: Pool(2, CPU)}, {"CPU": 1},
         {Decode: Pool(1, CPU), Score: Pool(1, {"CPU": 0}), Encode: Pool(1, CPU)}),
    ],
)  # fmt: skip
def test_what_a_cluster_has_room_for(now, total, smaller_pools):
    assert shrink_to_fit(now, total) == smaller_pools


@pytest.fixture
def watched(monkeypatch):
    """What a watch reports of actors in these states at each look, a minute from one to the next."""

    def watch(looks, total):
        minutes, stopped = iter(range(100)), []
        looks = iter(looks)

        class Ended(threading.Event):
            def wait(self, timeout):
                self.states = next(looks, None)
                return self.states is None

        ended = Ended()
        monkeypatch.setattr(starved_stages, "actor_states", lambda _: ended.states)
        monkeypatch.setattr(starved_stages.ray, "cluster_resources", lambda: total)
        monkeypatch.setattr(starved_stages.time, "monotonic", lambda: 60.0 * next(minutes))
        starved_stages._watch(pools(2, 4), ended, stopped.append)
        return [lost.smaller_pools for lost in stopped]

    return watch


ALL = {Decode: {"ALIVE"}, Encode: {"ALIVE", "RESTARTING"}}
LOST = {Decode: {"RESTARTING"}, Encode: {"ALIVE"}}
DONE = {Decode: set(), Encode: {"ALIVE"}}


def test_a_stage_without_a_place_for_minutes_ends_the_watch(watched):
    assert watched([ALL, LOST, LOST, LOST, LOST], {"CPU": 2}) == [pools(1, 2)]


@pytest.mark.parametrize(
    ("looks", "total"),
    [
        ([ALL, LOST, ALL, LOST, LOST, ALL] * 3, {"CPU": 2}),  # it comes back each time
        ([LOST] * 9, {"CPU": 2}),  # it has never had a place: machines are still to come
        ([ALL, *[LOST] * 9], {"CPU": 3}),  # there is room, and Ray will see it
        ([ALL, *[LOST] * 9], {"CPU": 0}),  # nobody has room
        ([ALL, *[DONE] * 9], {"CPU": 2}),  # all is decoded
    ],
)
def test_who_may_still_get_a_place_is_waited_for(watched, looks, total):
    assert watched(looks, total) == []
