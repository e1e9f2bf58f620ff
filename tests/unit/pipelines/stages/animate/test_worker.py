"""A worker of the animate job: short memory halves the batch, a fault is its item's alone, and a retry has an end."""

import errno
import os
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from animatediff import storage
from animatediff.errors import UserError
from animatediff.rendering.animator import Clip
from animatediff.rendering.catalog.catalog import Item
from animatediff.rendering.catalog.entries import Model
from animatediff.rendering.results.ledger import read_item
from animatediff.storage.errors import unreachable
from pipelines.stages.animate import worker as render
from pipelines.stages.animate.dispatch import Lease, Slice
from pipelines.stages.animate.worker import MAX_ATTEMPTS, RenderSlices, RenderSpec


class StubAnimator:
    """Gives grey clips; refuses batches beyond its memory, and prompts by what they say."""

    def __init__(self, memory=100):
        self.memory, self.calls, self.tries = memory, [], Counter()

    def render_batch(self, items, *, max_batch):
        self.calls.append((len(items), max_batch))
        self.tries.update(item.prompt for item in items)
        if min(len(items), max_batch) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for item in items:
            if item.prompt == "hungry":
                raise torch.OutOfMemoryError("CUDA out of memory")
            if item.prompt == "bad" or (item.prompt == "moody" and self.tries["moody"] < 2):
                raise ValueError("no such thing")
            if item.prompt == "refused":
                raise UserError("it says why")
        return [Clip(np.zeros((2, 16, 16, 3), np.uint8), torch.zeros(2, 4, 2, 2), None, {"unet": 1.0}) for _ in items]


class Worker(RenderSlices):
    """One that needs no cluster, and encodes at once."""

    def __init__(self, dispatcher, spec):
        super().__init__(dispatcher, spec)
        self.begun, self.left, self.most_begun = [], [], 1000

    def _begin(self, ticket, items):
        self.begun.append([item.prompt for item in items])
        return len(self.begun) <= self.most_begun

    def _finish(self, result):
        return result


@pytest.fixture
def worker(tmp_path):
    threads = torch.get_num_threads()
    spec = RenderSpec(str(tmp_path), "cpu", 8, ("mp4",), 18, None, None)
    yield Worker(None, spec)
    torch.set_num_threads(threads)


def items_of(*prompts, **changes):
    return [
        Item(digest=f"{number:064x}", entry="e", model="m", prompt=prompt, seed=number, **changes)
        for number, prompt in enumerate(prompts)
    ]


def lease_of(items, suspects=()):
    model = Model(base="b", motion_module="m")
    return Lease(Slice("m", 0, tuple(items)), model, {"b": "1"}, None, frozenset(suspects), {})


def clips(worker, animator, items, **lease):
    return {r.seed: r for r in worker._clips(0, lease_of(items, **lease), animator, items, 0.5)}


def test_a_batch_beyond_the_memory_is_halved_and_the_next_ones_fit(worker, tmp_path):
    animator = StubAnimator(memory=2)
    found = clips(worker, animator, items_of(*"abcdefghijkl"))
    assert [result.status for result in found.values()] == ["ok"] * 12
    assert animator.calls[0] == (8, 8)
    assert [size for size, _ in animator.calls if size > 2] == [8, 4, 4]
    assert animator.calls[-1] == (2, 2)
    assert all(storage.exists(str(tmp_path / result.files["mp4"])) for result in found.values())
    # Another size has its own limit.
    before = len(animator.calls)
    clips(worker, animator, items_of("z", "y", num_frames=8))
    assert animator.calls[before:] == [(2, 8)]


def test_too_little_memory_for_one_clip_is_told(worker):
    found = clips(worker, StubAnimator(), items_of("a", "hungry", "b"))
    assert [found[i].status for i in range(3)] == ["ok", "failed", "ok"]
    assert "out of memory with a single clip" in found[1].error


def test_a_fault_is_its_items_alone_and_tried_twice(worker, tmp_path):
    animator = StubAnimator()
    found = clips(worker, animator, items_of("a", "bad", "moody", "refused", "b"))
    assert [found[i].status for i in range(5)] == ["ok", "failed", "ok", "failed", "ok"]
    assert found[1].error == "ValueError: no such thing"
    assert found[3].error == "it says why"
    assert (found[1].attempts, found[3].attempts) == (MAX_ATTEMPTS, 1)
    assert animator.tries["refused"] == 2  # with the others, and by itself
    assert read_item(str(tmp_path), found[1].digest) == found[1]


def test_what_a_worker_died_with_comes_last_and_alone(worker):
    items = items_of("a", "b", "c", "d")
    animator = StubAnimator()
    found = clips(worker, animator, items, suspects=[items[0].digest, items[2].digest])
    assert worker.begun == [["b", "d"], ["a"], ["c"]]  # and nothing else waits to be encoded then
    assert (found[0].attempts, found[1].attempts) == (2, 1)


def test_who_still_waits_to_be_encoded_may_be_to_blame(worker):
    worker._spec = replace(worker._spec, batch_size=2)
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


def test_only_what_has_one_shape_shares_a_batch(worker):
    worker._spec = replace(worker._spec, batch_size=4)
    items = items_of("a", "b", "c") + items_of("d", "e", num_frames=8) + items_of("f", negative_prompt="grey", fps=4)
    clips(worker, StubAnimator(), items)
    assert next(prompts[-4:] for prompts in worker.begun) == ["a", "b", "c", "f"]
    assert worker.begun[1][-2:] == ["d", "e"]


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


def test_without_a_dispatcher_nothing_is_begun_and_what_is_rendered_is_committed(worker, tmp_path):
    """Another one shares out what is not committed: a second file of an item would be a second rendering."""
    items = items_of("one", "two", "three")
    worker._spec = replace(worker._spec, batch_size=1)
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
