import pytest
import torch

from animatediff.data.loading.holdout import is_held_out
from animatediff.data.loading.loader import ClipLoader
from animatediff.data.loading.mixing import MixedLoader
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import read_manifest
from animatediff.errors import UserError
from tests.unit.data.loading.test_loader import write_dataset


def test_a_videos_lot_is_its_own_and_its_share_is_as_told():
    names = [f"video-{i}" for i in range(20_000)]
    held = is_held_out(names, 0.1)
    assert held.mean() == pytest.approx(0.1, abs=0.01)
    assert (is_held_out(names[::-1], 0.1)[::-1] == held).all()
    assert (is_held_out(names, 0.2) >= held).all()  # a larger share keeps those of a smaller one
    assert not is_held_out(names, 0).any()


def seen(loader):
    return {clip for i in range(loader.num_clips) for clip in loader.load(i).clip_ids}


def test_held_out_clips_and_the_others_are_all_clips_and_never_the_same(tmp_path):
    uri = write_dataset(tmp_path / "data", shards=(20, 20))
    manifest = read_manifest(uri)
    trained, held = (
        seen(ClipLoader(uri, manifest, Batching(batch_size=1, seed=0), ClipFilter(holdout=0.3, held_out=held_out)))
        for held_out in (False, True)
    )
    assert trained
    assert held
    assert not trained & held
    assert len(trained | held) == 40


def test_a_share_that_leaves_nothing_is_refused(tmp_path):
    uri = write_dataset(tmp_path / "data", shards=(3,))
    manifest = read_manifest(uri)
    with pytest.raises(UserError, match=r"no clip of .* is left to train on: .*held-out videos \(1\)"):
        ClipLoader(uri, manifest, Batching(batch_size=1, seed=0), ClipFilter(holdout=1.0))
    with pytest.raises(UserError, match="no clip of .* is held out"):
        ClipLoader(uri, manifest, Batching(batch_size=1, seed=0), ClipFilter(held_out=True))


@pytest.mark.parametrize("world_size", [3, 4, 5])
def test_shares_of_a_batch_that_does_not_divide_are_the_whole_batch(tmp_path, world_size):
    uri = write_dataset(tmp_path / "data", shards=(9,))
    manifest = read_manifest(uri)
    whole = ClipLoader(uri, manifest, Batching(batch_size=7, seed=1)).load(2)
    parts = [
        ClipLoader(uri, manifest, Batching(batch_size=7, seed=1, rank=rank, world_size=world_size)).load(2)
        for rank in range(world_size)
    ]
    assert [clip for part in parts for clip in part.clip_ids] == whole.clip_ids
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    firsts = [part.first_index for part in parts]
    assert firsts == [sum(len(part.clip_ids) for part in parts[:i]) for i in range(world_size)]


def test_a_second_datasets_batches_are_evenly_spread_and_a_start_in_the_middle_changes_nothing(tmp_path):
    def mixed():
        loaders = []
        for name, shape in (("own", (4, 4, 2, 2)), ("other", (2, 4, 3, 3))):
            uri = write_dataset(tmp_path / name, shards=(5, 6), shapes=(shape,))
            loaders.append(ClipLoader(uri, read_manifest(uri), Batching(batch_size=2, seed=1)))
        return MixedLoader(*loaders, other_fraction=0.25)

    def take(start, num):
        batches = mixed().batches(start)
        return [(tuple(batch.latents.shape), batch.clip_ids) for batch, _ in zip(batches, range(num), strict=False)]

    whole = take(0, 24)
    is_other = [shape[2] == 2 for shape, _ in whole]
    assert [i for i, other in enumerate(is_other) if other] == [3, 7, 11, 15, 19, 23]
    for start in (1, 4, 10):
        assert take(start, 6) == whole[start : start + 6]
    own = [clip for shape, clips in whole if shape[2] == 4 for clip in clips]
    assert len(set(own[:11])) == 11  # none is left out for the other's turns
