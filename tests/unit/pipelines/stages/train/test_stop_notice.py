"""When training workers look for a notice, and what they do with one."""

from types import SimpleNamespace

import pytest

from pipelines.stages.train import stop_notice
from pipelines.stages.train.stop_notice import StopNotice


class Workers:
    """Two of them, in step: rank 0 first, whose values the other gets; a clock, and the steps after which they look."""

    def __init__(self, monkeypatch):
        self.now, self.step, self.looks = 0.0, 0, {0: [], 1: []}
        self.is_stopping, self.drained = False, ()
        self._rank, self._sent = 0, None
        context = SimpleNamespace(get_world_rank=lambda: self._rank)
        train = SimpleNamespace(
            get_context=lambda: context,
            get_preemption_info=lambda: SimpleNamespace(preempted_node_ids=self.drained) if self.drained else None,
        )
        ray = SimpleNamespace(train=train, wait=lambda refs, timeout: (refs, []), get=lambda ref: ref)
        monkeypatch.setattr(stop_notice, "ray", ray)
        monkeypatch.setattr(stop_notice, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(stop_notice, "broadcast_from_rank_zero", self._broadcast)
        queue = SimpleNamespace(is_stopping=SimpleNamespace(remote=lambda: self.is_stopping))
        self._notices = []
        for self._rank in (0, 1):
            self._notices.append(StopNotice(queue))

    def _broadcast(self, value):
        self.looks[self._rank].append(self.step)
        if self._rank == 0:
            self._sent = value
        return self._sent

    def take(self, num_steps, seconds):
        """Take steps of so many seconds until the workers are told something; what that is, and after which step."""
        for _ in range(num_steps):
            self.step, self.now = self.step + 1, self.now + seconds
            told = []
            for self._rank in (0, 1):
                told.append(self._notices[self._rank].poll())
            assert told[0] == told[1]
            if told[0]:
                return told[0], self.step
        return None


@pytest.fixture
def workers(monkeypatch):
    return Workers(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "looks"),
    [(5.0, [1, 2, 3, 4]), (0.3, [1, 4, 7, 10]), (0.001, [1, 21, 41, 61])],
    ids=["slow steps", "steps of a third of a second", "quick steps"],
)
def test_all_workers_look_about_once_a_second_after_the_same_steps(workers, seconds, looks):
    workers.take(61, seconds)
    assert workers.looks[0][:4] == looks
    assert workers.looks[1] == workers.looks[0]


@pytest.mark.parametrize("seconds", [5.0, 0.001])
def test_a_notice_is_acted_on_within_two_looks(workers, seconds):
    assert workers.take(100, seconds) is None
    workers.drained = ("node",)
    told, step = workers.take(40, seconds)
    assert (told, step <= 140) == ("drain", True)
    assert workers.take(100, seconds) is None  # it is no news any more
    workers.is_stopping, before = True, workers.step
    told, step = workers.take(60, seconds)
    assert (told, step <= before + 60) == ("stop", True)
