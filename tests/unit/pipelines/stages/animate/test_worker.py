"""A worker of the animate job: what it begins with, what it is blamed for, and when it ends itself."""

import errno
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.results.ledger import read_item
from animatediff.storage.errors import unreachable
from pipelines.stages.animate import worker as render
from pipelines.stages.animate.worker import RenderSlices, RenderSpec
from tests.unit.pipelines.stages.animate.stubs import StubAnimator, assignment_of, items_of


class Worker(RenderSlices):
    """One that needs no cluster, and encodes at once."""

    def __init__(self, dispatcher, spec):
        super().__init__(dispatcher, spec)
        self.begun, self.left, self.most_begun = [], [], 1000

    def _tell_begin(self, ticket, items):
        self.begun.append([item.prompt for item in items])
        return len(self.begun) <= self.most_begun

    def _tell_finish(self, result):
        return result


@pytest.fixture
def worker_of(tmp_path):
    threads = torch.get_num_threads()
    spec = RenderSpec(str(tmp_path), "cpu", 8, ("mp4",), 18, None, None)
    yield lambda **changes: Worker(None, replace(spec, **changes))
    torch.set_num_threads(threads)


@pytest.fixture
def worker(worker_of):
    return worker_of()


def clips(worker, animator, items, **assignment):
    return {r.seed: r for r in worker._render_and_commit(0, assignment_of(items, **assignment), animator, items, 0.5)}


def test_what_a_worker_died_with_comes_last_and_alone(worker):
    items = items_of("a", "b", "c", "d")
    animator = StubAnimator()
    found = clips(worker, animator, items, crash_suspects=[items[0].digest, items[2].digest])
    assert worker.begun == [["b", "d"], ["a"], ["c"]]  # and nothing else waits to be encoded then
    assert (found[0].attempts, found[1].attempts) == (2, 1)


def test_who_still_waits_to_be_encoded_may_be_to_blame(worker_of):
    worker = worker_of(batch_size=2)
    clips(worker, StubAnimator(), items_of("a", "b", "c", "d"))
    assert worker.begun == [["a", "b"], ["a", "b", "c", "d"]]


def test_a_broken_device_ends_the_worker_and_a_fault_of_an_item_does_not(worker, monkeypatch):
    class LeftError(Exception):
        pass

    def leave(code):
        raise LeftError(code)

    monkeypatch.setattr(render.os, "_exit", leave)
    assert clips(worker, StubAnimator(), items_of("bad"))[0].status == "failed"
    # Its context is gone: whatever it is asked, it fails.
    worker._spec = replace(worker._spec, device="meta:no such device")
    with pytest.raises(LeftError, match="1"):
        clips(worker, StubAnimator(), items_of("bad"))


def test_what_cannot_be_written_is_a_row_and_the_others_go_on(worker, monkeypatch):
    write = storage.write_bytes

    def refuse(uri, data):
        if uri.endswith(f"{1:016x}.mp4"):
            raise UserError("permission denied")
        write(uri, data)

    monkeypatch.setattr(storage, "write_bytes", refuse)
    items = items_of("a", "b", "c")
    items = [item.model_copy(update={"digest": f"{item.seed:016x}{'0' * 48}"}) for item in items]
    found = clips(worker, StubAnimator(), items)
    assert [found[i].status for i in range(3)] == ["ok", "failed", "ok"]
    assert found[1].error == "permission denied"


@pytest.mark.parametrize(
    ("limits", "num_models", "model", "memory_gb", "ends"),
    [
        ((None, None), 99, "new", 99.0, False),
        ((2, None), 1, "new", 99.0, False),
        ((2, None), 2, "new", 0.0, True),
        # The last of its models is kept as long as there is work for it.
        ((2, None), 2, "1", 0.0, False),
        ((None, 4.0), 1, "0", 3.9, False),
        ((None, 4.0), 1, "0", 4.1, True),
        # A fresh worker that is over the limit already would end for ever.
        ((None, 4.0), 0, "new", 4.1, False),
    ],
)
def test_a_worker_ends_where_it_has_grown_old(worker, monkeypatch, limits, num_models, model, memory_gb, ends):
    ended = []
    monkeypatch.setattr(render.os, "_exit", ended.append)
    monkeypatch.setattr(render, "_memory_gb", lambda: memory_gb)
    worker._spec = replace(worker._spec, max_models=limits[0], max_memory_gb=limits[1])
    worker._models_seen = {str(number) for number in range(num_models)}
    worker._recycle(model)
    assert bool(ended) == ends


def test_without_a_dispatcher_nothing_is_begun_and_what_is_rendered_is_committed(worker_of, tmp_path):
    """Another one shares out what is not committed: a second file of an item would be a second rendering."""
    items = items_of("one", "two", "three")
    worker = worker_of(batch_size=1)
    worker.most_begun = 2
    found = clips(worker, StubAnimator(), items)
    assert sorted(found) == [0, 1]
    assert [read_item(str(tmp_path), item.digest) is not None for item in items] == [True, True, False]


@pytest.mark.parametrize(("number", "stops"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_a_full_storage_stops_the_work_and_another_refusal_does_not(worker, monkeypatch, number, stops):
    """What cannot be written for want of room would be rendered in vain from now on."""
    stopped = []
    worker._dispatcher = SimpleNamespace(stop=SimpleNamespace(remote=stopped.append))

    def refuse(uri, data):
        raise unreachable(uri, OSError(number, os.strerror(number)))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", refuse)
        found = clips(worker, StubAnimator(), items_of("a"))
    assert found[0].status == "failed"
    assert found[0].error.startswith("cannot use ")
    assert stopped == ([found[0].error] if stops else [])


def test_a_slice_is_rendered_but_for_what_is_settled(worker, tmp_path):
    """Its ticket comes again after a death: one item is committed, one is given up, two are left."""
    items = items_of("a", "b", "c", "d")
    clips(worker, StubAnimator(), items[:1])
    worker.begun.clear()
    animator = StubAnimator()
    worker._load = lambda assignment: animator
    results = worker._render(0, assignment_of(items, given_up={items[1].digest: "workers died of it"}))
    assert [(result.seed, result.status) for result in results] == [(0, "ok"), (1, "failed"), (2, "ok"), (3, "ok")]
    assert worker.begun == [[], ["c", "d"]]  # the model, and then what is left
    assert sorted(animator.tries) == ["c", "d"]
    assert all(read_item(str(tmp_path), item.digest) for item in items)
    # And once more: nothing is left, so nothing is begun.
    worker.begun.clear()
    assert len(worker._render(0, assignment_of(items))) == 4
    assert worker.begun == []


def test_a_model_that_cannot_be_loaded_fails_its_items(worker, tmp_path):
    def refuse(assignment):
        raise UserError("its file is damaged")

    worker._load = refuse
    items = items_of("a", "b")
    results = worker._render(0, assignment_of(items))
    assert [(result.status, result.error, result.attempts) for result in results] == [
        ("failed", "its file is damaged", 1)
    ] * 2
    assert [read_item(str(tmp_path), item.digest) for item in items] == results


def test_nothing_is_loaded_where_nothing_is_to_be_begun(worker):
    worker.most_begun = 0
    worker._load = lambda assignment: pytest.fail("a model was loaded")
    assert worker._render(0, assignment_of(items_of("a"))) == []
