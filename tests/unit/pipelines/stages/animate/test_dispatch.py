"""Which slice an animate worker gets: all of them once, models kept, deaths counted."""

import itertools
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from animatediff.rendering.catalog.entries import ModelFiles
from animatediff.rendering.catalog.item import Item
from pipelines.stages.animate.dispatch import MAX_DEATHS, Dispatcher, cut_into_slices


def item(model, number, priority=0):
    return Item(digest=f"{model}{number}", entry=model, model=model, priority=priority, prompt="a cat", seed=number)


def items_of(**counts):
    return [item(model, number) for model, count in counts.items() for number in range(count)]


def death_of(process):
    return f"was ended by Ray, as {process}'s machine ran out of memory"


def dispatcher(items, num_workers=1):
    slices = cut_into_slices(items, num_workers)
    names = {each.model for each in items}
    models = {name: ModelFiles(base=name, motion_module="m") for name in names}
    return Dispatcher(slices, models, {name: {name: "hash"} for name in names}, {}, death_of), len(slices)


def models_in_order(assignments):
    return [assignment.slice.model_digest for assignment in assignments]


@given(
    counts=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1),
    workers=st.lists(st.sampled_from(["x", "y", "z"]), min_size=1, max_size=200),
)
def test_every_item_is_assigned_once_whoever_asks(counts, workers):
    items = items_of(**counts)
    dispatch, num_tickets = dispatcher(items, 3)
    names = [workers[ticket % len(workers)] for ticket in range(num_tickets)]
    assignments = [dispatch.assign(ticket, name, name) for ticket, name in enumerate(names)]
    found = Counter(each.digest for assignment in assignments for each in assignment.slice.items)
    assert found == Counter(each.digest for each in items)
    assert dispatch.assign(num_tickets, "x", "x") is None


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1))
def test_a_lone_worker_loads_each_model_once_and_knows_the_next(counts):
    dispatch, num_tickets = dispatcher(items_of(**counts))
    assignments = [dispatch.assign(ticket, "x", "x") for ticket in range(num_tickets)]
    changes = [(a, b) for a, b in itertools.pairwise(assignments) if a.slice.model_digest != b.slice.model_digest]
    assert len(changes) == len(counts) - 1
    assert all(before.upcoming == after.model for before, after in changes)
    assert assignments[-1].upcoming is None


def test_small_groups_stay_together_and_large_ones_are_shared():
    dispatch, num_tickets = dispatcher(items_of(a=100, b=3, c=3), 2)
    assignments = {"x": [], "y": []}
    for ticket in range(num_tickets):
        worker = "xy"[ticket % 2]
        assignments[worker].append(dispatch.assign(ticket, worker, worker))
    together = models_in_order(assignments["x"] + assignments["y"])
    assert together.count("b") == together.count("c") == 1
    assert "a" in models_in_order(assignments["x"])
    assert "a" in models_in_order(assignments["y"])  # after b and c, it helps
    # Who began with the large group stays with it.
    assert set(models_in_order(assignments["x"])) == {"a"}


def test_higher_priorities_come_first():
    items = [item("a", 0), item("a", 1, priority=-1), item("b", 2, priority=5), item("c", 3, priority=5)]
    dispatch, num_tickets = dispatcher(items)
    assignments = [dispatch.assign(ticket, "x", "x") for ticket in range(num_tickets)]
    assert [assignment.slice.priority for assignment in assignments] == [5, 5, 0, -1]


def test_a_ticket_that_comes_again_finds_its_slice_and_who_is_to_blame():
    items = items_of(a=4)
    dispatch, _ = dispatcher(items)
    first = dispatch.assign(0, "x", "x")
    assert (first.crash_suspects, first.given_up) == (frozenset(), {})
    dispatch.begin(0, [])
    dispatch.begin(0, ["a1", "a2"])
    second = dispatch.assign(0, "y", "y")
    assert second.slice == first.slice
    assert (second.crash_suspects, second.given_up) == ({"a1", "a2"}, {})
    dispatch.begin(0, ["a1"])
    third = dispatch.assign(0, "z", "z")
    assert third.crash_suspects == {"a2"}
    assert list(third.given_up) == ["a1"]
    told = f"died {MAX_DEATHS} times while it rendered this, the last one was ended by Ray, as y's machine ran out"
    assert told in third.given_up["a1"]


def test_items_are_counted_once_whoever_tells_of_them():
    dispatch, _ = dispatcher(items_of(a=3))
    for digest, status in (("a0", "ok"), ("a1", "failed"), ("a0", "ok"), ("a1", "failed")):
        dispatch.finish(digest, status, {"unet": 2.0} if status == "ok" else {})
    assert dispatch.tally() == ({"ok": 1, "failed": 1}, {"unet": 2.0}, 0)
    assert dispatch.tally() - dispatch.tally() == ({}, {}, 0)


def test_a_swap_is_another_model_in_the_same_process_or_any_in_a_new_one():
    dispatch, _ = dispatcher(items_of(a=2, b=1), 3)
    for ticket, process in ((0, "x"), (1, "x"), (2, "x"), (2, "y")):
        model = dispatch.assign(ticket, "worker", process).slice.model_digest
        dispatch.begin(ticket, [])
        dispatch.begin(ticket, [f"{model}0"])
    assert dispatch.tally().num_swaps == 3


def test_a_model_that_kills_whoever_loads_it_is_given_up():
    dispatch, _ = dispatcher(items_of(a=2, b=1))
    dispatch.assign(0, "x", "x")
    for worker in range(MAX_DEATHS):
        dispatch.begin(0, [])
        assignment = dispatch.assign(0, f"y{worker}", f"y{worker}")
    assert list(assignment.given_up) == ["a0", "a1"]
    assert "while it loaded the model" in assignment.given_up["a0"]
    assert dispatch.assign(1, "z", "z").given_up == {}


def test_a_worker_that_ends_between_slices_blames_nobody():
    dispatch, _ = dispatcher(items_of(a=2))
    for worker in "vwxyz":
        assignment = dispatch.assign(0, worker, worker)
    assert (assignment.crash_suspects, assignment.given_up) == (frozenset(), {})


def test_after_a_stop_nothing_more_is_begun():
    held, num_tickets = dispatcher(items_of(a=30, b=30))
    assert held.stopped() is None
    assert held.assign(0, "x", "process-1") is not None
    assert held.begin(0, ["a0"])
    held.stop("the disk is full")
    held.stop("it still is")
    assert held.stopped() == "the disk is full"
    assert not held.begin(0, ["a1"])
    assert all(held.assign(ticket, "x", "process-1") is None for ticket in range(num_tickets))


def test_a_worker_stays_with_its_base_while_models_on_it_wait():
    items = items_of(a=1, b=1, c=40, d=1)
    bases = {"a": "sd1", "b": "sdxl", "c": "sdxl", "d": "sd1"}
    models = {name: ModelFiles(base=base, motion_module=f"{base}.ckpt") for name, base in bases.items()}
    slices = cut_into_slices(sorted(items, key=lambda each: each.model), 1)
    dispatch = Dispatcher(slices, models, {name: {} for name in bases}, {}, death_of)
    order = models_in_order([dispatch.assign(ticket, "x", "x") for ticket in range(len(slices))])
    assert [bases[name] for name, _ in itertools.groupby(order)] == ["sdxl", "sdxl", "sd1", "sd1"]
