"""Settings of the whole suite."""

import os
from pathlib import Path

# Before Ray and torch start. A local `ray.init` would turn token authentication on and write a token file.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import pytest
import torch

from animatediff.models.computing import processor, token_linear

# Two torch threads beside Ray's processes on two cores are many times slower than one.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _plain_processor():
    """Let all be computed as on the plainest processor, but where tests say which one it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "_CPUINFO", Path("/there/is/no/such/file"))
        patch.setattr(token_linear, "_MULTIPLIES_BY_HALF", False)
        yield


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
