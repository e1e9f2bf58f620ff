import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animatediff.data.ingest.id_set import IdSet

NAMES = st.lists(st.text(max_size=2), max_size=30)


@given(batches=st.lists(NAMES, max_size=8))
def test_it_is_a_set_that_tells_what_was_new(batches):
    seen, model = IdSet(), set()
    for batch in batches:
        expected = []
        for name in batch:
            expected.append(name not in model)
            model.add(name)
        assert seen.add(batch).tolist() == expected
        assert len(seen) == len(model)
        assert seen.contains([*batch, "never"]).tolist() == [True] * len(batch) + [False]


def test_a_million_names_take_eight_bytes_each():
    seen = IdSet()
    for start in range(0, 1_000_000, 10_000):
        assert seen.add([f"video-{i}" for i in range(start, start + 10_000)]).all()
    assert len(seen) == 1_000_000
    assert sum(run.nbytes for run in seen._runs) == 8_000_000
    assert len(seen._runs) < 20
    assert not np.any(seen.add(["video-0", "video-999999"]))
