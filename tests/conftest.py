"""Settings of the whole suite."""

import os

# Before Ray and torch start. A local `ray.init` would turn token authentication on and write a token file.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ.pop("RAY_ADDRESS", None)

import pytest
import torch

# Two torch threads beside Ray's processes on two cores are many times slower than one.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
