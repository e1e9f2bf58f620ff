import pytest

from animatediff.data.manifest import read_manifest
from animatediff.training import long_captions
from animatediff.training.long_captions import count_long_captions
from tests.support_base import build_base
from tests.unit.data.loading.test_loader import write_dataset


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_base(tmp_path_factory.mktemp("world") / "base"))


# One more word than is read, and one as long as what is read; "caption 0" and the like are short.
@pytest.mark.parametrize(("words", "number"), [(76, 3), (75, 0), (300, 3)])
def test_captions_that_are_cut_off_are_counted(tmp_path, base, monkeypatch, words, number):
    write_dataset(tmp_path, shards=(70, 3))
    monkeypatch.setattr(long_captions, "read_row_group", _lengthened(" ".join(["a"] * words)))
    found = count_long_captions(str(tmp_path), read_manifest(str(tmp_path)), base)
    assert (found.number, found.looked_at, found.room) == (number, 73, 75)
    assert f"{number} of 73 captions" in str(found)


def _lengthened(text):
    """Three clips of the real rows have another caption."""
    real = long_captions.read_row_group

    def read(*args):
        table = real(*args)
        changed = [
            text if row in ("caption 0", "caption 69", "caption 72") else row for row in table["caption"].to_pylist()
        ]
        return table.set_column(0, "caption", [changed])

    return read


def test_a_large_dataset_is_looked_at_in_part(tmp_path, base, monkeypatch):
    write_dataset(tmp_path, shards=(64,) * 4)
    monkeypatch.setattr(long_captions, "_MOST_CAPTIONS", 20)
    monkeypatch.setattr(long_captions, "_MOST_GROUPS", 2)
    asked = []
    real = long_captions.read_row_group
    monkeypatch.setattr(long_captions, "read_row_group", lambda uri, *args: asked.append(uri) or real(uri, *args))
    assert count_long_captions(str(tmp_path), read_manifest(str(tmp_path)), base).looked_at == 20
    assert [uri[-13:-8] for uri in sorted(asked)] == ["00000", "00003"]
