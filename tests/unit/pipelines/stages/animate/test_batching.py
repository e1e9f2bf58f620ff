"""Batches of a worker of the animate job: short memory halves them, and a fault is its item's alone."""

import pytest

from animatediff.errors import UserError
from animatediff.rendering.animator import RenderedClip
from pipelines.stages.animate import batching
from pipelines.stages.animate.batching import MAX_ATTEMPTS, Batcher, is_out_of_memory
from tests.unit.pipelines.stages.animate.stubs import StubAnimator, items_of


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """A failure collects garbage, which takes a second in a process that has imported everything."""
    monkeypatch.setattr(batching.gc, "collect", lambda: 0)


def rendered(batcher, animator, items, crash_suspects=()):
    """ClipOrError and attempts by the item's seed."""
    batches = batcher.batches(items, crash_suspects)
    return {
        item.seed: (outcome, attempts)
        for batch in batches
        for item, outcome, attempts in batcher.render(animator, batch)
    }


def batcher_of(batch_size):
    return Batcher(batch_size, lambda: None)


def test_a_batch_beyond_the_memory_is_halved_and_the_next_ones_fit():
    animator, batcher = StubAnimator(memory=2), batcher_of(8)
    found = rendered(batcher, animator, items_of(*"abcdefghijkl"))
    assert sorted(found) == list(range(12))
    assert all(isinstance(outcome, RenderedClip) for outcome, _ in found.values())
    assert animator.calls[0] == (8, 8)
    assert [size for size, _ in animator.calls if size > 2] == [8, 4, 4]
    assert animator.calls[-1] == (2, 2)
    # Another size has its own limit.
    before = len(animator.calls)
    rendered(batcher, animator, items_of("z", "y", num_frames=8))
    assert animator.calls[before:] == [(2, 8)]


def test_a_fault_is_its_items_alone_and_tried_twice():
    animator = StubAnimator()
    found = rendered(batcher_of(8), animator, items_of("a", "bad", "moody", "refused", "b"))
    assert [isinstance(found[seed][0], RenderedClip) for seed in range(5)] == [True, False, True, False, True]
    assert isinstance(found[1][0], ValueError)
    assert isinstance(found[3][0], UserError)
    assert (found[1][1], found[3][1]) == (MAX_ATTEMPTS, 1)
    assert animator.tries["refused"] == 2  # with the others, and by itself


def test_only_what_has_one_shape_shares_a_batch():
    items = items_of("a", "b", "c") + items_of("d", "e", num_frames=8) + items_of("f", negative_prompt="grey", fps=4)
    batches = [[item.prompt for item in batch] for batch in batcher_of(4).batches(items, ())]
    assert batches == [["a", "b", "c", "f"], ["d", "e"]]


def test_clips_of_equal_controls_share_a_batch():
    control = {"net": "n.pt", "pictures": "p.png", "scale": {0: 1.0, 7: 0.2}}
    items = [
        item.model_validate(item.model_dump() | {"controls": [control | {"end": end}]})
        for item, end in zip(items_of(*"abcd"), (1.0, 0.5, 1.0, 0.5), strict=True)
    ]
    assert [[item.prompt for item in batch] for batch in batcher_of(8).batches(items, ())] == [["a", "c"], ["b", "d"]]


def test_clips_that_begin_from_pictures_share_a_batch_with_their_like():
    items = items_of("a") + items_of("b", init_image="x.png") + items_of("c", init_video="x.mp4")
    items += items_of("d", init_image="y.png") + items_of("e", init_image="x.png", strength=0.3)
    batches = [[item.prompt for item in batch] for batch in batcher_of(4).batches(items, ())]
    assert batches == [["a"], ["b", "d"], ["c"], ["e"]]


def test_what_a_worker_died_with_comes_last_and_alone():
    items = items_of("a", "b", "c", "d")
    crash_suspects = {items[0].digest, items[2].digest}
    batches = [[item.prompt for item in batch] for batch in batcher_of(4).batches(items, crash_suspects)]
    assert batches == [["b", "d"], ["a"], ["c"]]


def test_the_device_is_looked_at_after_each_failure():
    looked = []
    rendered(Batcher(1, lambda: looked.append(1)), StubAnimator(), items_of("a", "bad", "refused"))
    assert len(looked) == MAX_ATTEMPTS + 1


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 4 bytes"), True),
        (ValueError("no such thing"), False),
    ],
)
def test_who_says_that_memory_is_short(error, is_memory):
    assert is_out_of_memory(error) is is_memory
