"""Text encoders that are on the device only while captions are encoded."""

import pytest
import torch

from animatediff.training.config import TrainingConfig
from animatediff.training.text import CaptionEncoder
from animatediff.training.trainer import Trainer
from animatediff.weights.base import load_text_encoders
from animatediff.weights.base_facts import BaseFacts
from tests.support_sdxl import build_sdxl
from tests.unit.data.loading.test_loader import write_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_sdxl(tmp_path_factory.mktemp("sdxl") / "base"))


def test_encoders_visit_the_device_once_for_all_new_captions_of_a_call(base):
    encoders = load_text_encoders(base)
    encode = CaptionEncoder(BaseFacts(base), encoders, CPU, torch.float32, latent_factor=8, offload=True)
    modules = [module for _, module in encoders.values()]
    kept = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    moves, place = [], encode._offloaded._place
    encode._offloaded._place = lambda where: (moves.append(1), place(where))
    encode(["a star", "a circle"], height=8, width=8)
    assert len(moves) == 2  # there and back
    encode(["a star"], height=8, width=8)
    assert len(moves) == 2
    for module, before in zip(modules, kept, strict=True):
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_run_trains_the_same_with_them(base, tmp_path):
    fields = {
        "dataset_uri": write_dataset(tmp_path / "data", shards=(2,), shapes=((2, 4, 8, 8),)),
        "base": base,
        "train": {"num_steps": 1, "batch_size": 2},
    }
    sums = []
    for offload in (False, True):
        config = TrainingConfig(**fields, compute={"offload_text_encoders": offload})
        ((_, result),) = Trainer(config, device=CPU).steps(0)
        sums.append(result.loss_sums)
    assert torch.equal(*sums)
