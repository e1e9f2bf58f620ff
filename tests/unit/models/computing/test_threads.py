"""No more threads are counted on than the environment leaves."""

import pytest
import torch

from animatediff.models.computing.threads import use_threads


@pytest.mark.parametrize(("limit", "number"), [(None, 3), ("", 3), ("2", 2), ("8", 3), ("0", 3), ("many", 3)])
def test_the_environments_limit_is_kept(monkeypatch, limit, number):
    for name in ("OMP_THREAD_LIMIT", "OMP_DYNAMIC"):
        monkeypatch.delenv(name, raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_THREAD_LIMIT", limit)
    before = torch.get_num_threads()
    try:
        use_threads(3)
        assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)


def test_where_openmp_chooses_one_thread_alone_is_sure(monkeypatch):
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    before = torch.get_num_threads()
    try:
        use_threads(3)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
