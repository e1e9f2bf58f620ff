"""The order of clips: every epoch whole, every batch decided by its number, every batch of one shape."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.data.loading.order import Batching, BucketOrder, ClipOrder

GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(sum)
BATCH = st.integers(1, 9)


@given(groups=GROUPS, batch_size=BATCH, seed=st.integers(0, 99))
def test_every_epoch_has_every_clip_once(groups, batch_size, seed):
    order = ClipOrder(groups, batch_size=batch_size, seed=seed)
    everything = sorted((g, r) for g, rows in enumerate(groups) for r in range(rows))
    num_batches = -(-3 * len(everything) // batch_size)
    line = [place for k in range(num_batches) for place in order.batch(k)]
    for epoch in range(3):
        assert sorted(line[epoch * len(everything) : (epoch + 1) * len(everything)]) == everything


@given(groups=GROUPS, batch_size=BATCH, start=st.integers(0, 40))
def test_a_batch_depends_on_its_number_alone(groups, batch_size, start):
    walked, fresh = (ClipOrder(groups, batch_size=batch_size, seed=1) for _ in range(2))
    straight = [walked.batch(k) for k in range(start + 1)]
    assert fresh.batch(start) == straight[start]


def test_epochs_and_seeds_differ():
    groups = [64] * 8
    epochs = [[ClipOrder(groups, batch_size=8, seed=s).batch(64 * e + k) for k in range(64)] for s, e in
              [(0, 0), (0, 1), (1, 0)]]  # fmt: skip
    assert epochs[0] != epochs[1]
    assert epochs[0] != epochs[2]


def test_a_batch_mixes_row_groups_and_a_worker_opens_only_its_share():
    order = ClipOrder([64] * 16, batch_size=8, seed=0)
    epoch = [order.batch(k) for k in range(128)]
    assert all(len({location.row_group for location in batch}) == 8 for batch in epoch)
    opened = [{location.row_group for batch in epoch for location in batch[r * 2 : r * 2 + 2]} for r in range(4)]
    assert [len(groups) for groups in opened] == [4, 4, 4, 4]


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=9), extra=st.integers(0, 5), seed=st.integers(0, 99))
def test_a_slot_reads_neighbouring_rows_of_the_epochs_order(rows, extra, seed):
    """Where a buffer holds all of an epoch, its slots one after another are the row groups one after another."""
    batch_size = len(rows) + extra
    order, num_clips = ClipOrder(rows, batch_size=batch_size, seed=seed), sum(rows)
    line = [place for k in range(-(-2 * num_clips // batch_size)) for place in order.batch(k)]
    for epoch in range(2):
        positions = sorted(range(epoch * num_clips, (epoch + 1) * num_clips), key=lambda p: (p % batch_size, p))
        groups = [line[position].row_group for position in positions]
        assert len([group for group, _ in itertools.groupby(groups)]) == len(rows)


@given(batch_size=st.integers(1, 60), data=st.data())
def test_workers_share_a_batch_without_gap_or_overlap_and_evenly(batch_size, data):
    world_size = data.draw(st.integers(1, batch_size))
    shares = [Batching(batch_size, 0, rank, world_size).rank_slice for rank in range(world_size)]
    assert [index for share in shares for index in range(batch_size)[share]] == list(range(batch_size))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_more_workers_than_clips_of_a_batch_are_refused():
    with pytest.raises(ValueError, match="a batch of 2 clips is not enough for 3 workers"):
        Batching(2, 0, 0, 3)


def test_an_order_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        ClipOrder([0], batch_size=2, seed=0)


@given(buckets=st.lists(GROUPS, min_size=1, max_size=4), batch_size=BATCH, seed=st.integers(0, 9))
def test_every_batch_is_of_one_bucket_and_all_clips_come(buckets, batch_size, seed):
    order = BucketOrder(buckets, batch_size=batch_size, seed=seed)
    bucket_of = [i for i, groups in enumerate(buckets) for _ in groups]
    cycle = sum(-(-sum(groups) // batch_size) for groups in buckets)
    batches = [order.batch(k) for k in range(2 * cycle)]
    assert all(len({bucket_of[location.row_group] for location in batch}) == 1 for batch in batches)
    everything = {(g, r) for g, rows in enumerate([n for groups in buckets for n in groups]) for r in range(rows)}
    assert {tuple(location) for batch in batches[:cycle] for location in batch} == everything
    assert BucketOrder(buckets, batch_size=batch_size, seed=seed).batch(cycle) == batches[cycle]


def test_buckets_have_turns_by_their_size_and_one_bucket_alone_is_as_without_any():
    order = BucketOrder([[64] * 6, [64] * 2], batch_size=4, seed=0)
    turns = Counter(order.batch(k)[0].row_group < 6 for k in range(128))
    assert turns == {True: 96, False: 32}
    alone, plain = BucketOrder([[9, 5]], batch_size=4, seed=3), ClipOrder([9, 5], batch_size=4, seed=3)
    assert [alone.batch(k) for k in range(12)] == [plain.batch(k) for k in range(12)]
