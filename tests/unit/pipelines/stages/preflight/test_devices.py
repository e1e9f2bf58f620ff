import pytest
import torch

from animatediff.errors import UserError
from pipelines.stages.preflight import devices
from pipelines.stages.preflight.devices import check_device, compare


def test_the_cpu_computes_in_each_precision(monkeypatch):
    monkeypatch.setattr(devices, "_CHANNELS", 16)  # half precision is slow on a CPU
    monkeypatch.setattr(devices, "_PRODUCT", 64)
    assert check_device(torch.device("cpu")) == "cpu (float32, float16, bfloat16)"


@pytest.mark.parametrize("wrong", [1.1, float("nan"), float("inf"), 0.0])
def test_a_device_that_computes_something_else_is_told(wrong):
    expected = torch.ones(4)
    compare("a sum", expected * 1.001, expected, 0.01)
    with pytest.raises(UserError, match="a sum is off by"):
        compare("a sum", expected * wrong, expected, 0.01)
