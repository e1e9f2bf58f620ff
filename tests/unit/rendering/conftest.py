"""What tests of rendering share."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums round by how they are shared out: clips that must be equal are computed by one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
