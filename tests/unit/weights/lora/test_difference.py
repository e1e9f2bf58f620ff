"""A motion module and the LoRA of its difference to another one are that other one."""

import copy

import pytest
import torch

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights.identify.weights_file import identify_uri
from animatediff.weights.lora.difference import write_difference
from animatediff.weights.resident import ResidentWeights, ScaledLora


@pytest.mark.parametrize(("rank", "tolerance"), [(4, 1e-3), (2, None)])
def test_added_to_the_given_module_it_is_the_trained_one(tmp_path, rank, tolerance):
    """Here the matrices differ by products of rank 4."""
    torch.manual_seed(0)
    config = MotionConfig(norm_num_groups=8, text_width=12)
    given = MotionModules(config, down=[[16, 16], [32, 32]], mid=32, up=[[32, 32, 32], [16, 16, 16]])
    trained = copy.deepcopy(given)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.ndim == 2:
                parts = [torch.randn(o, 4) @ torch.randn(4, parameter.shape[1]) for o in _blocks(parameter)]
                parameter.add_(torch.cat(parts), alpha=0.05)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    uri = str(tmp_path / "difference.safetensors")
    write_difference(uri, trained, given, rank=rank, metadata={"few_step": "{}"})
    assert identify_uri(uri).family == "motion_lora"
    ResidentWeights({"motion": given}).load(None, [ScaledLora(uri, 1.0, "motion_lora")])
    off = [(a - b).abs().max() for a, b in zip(given.parameters(), trained.parameters(), strict=True)]
    assert (max(off) < tolerance) if tolerance else (max(off) > 0.05)


def _blocks(parameter):
    """Rows of the matrices that a fused one consists of."""
    rows, columns = parameter.shape
    return [columns] * 3 if rows == 3 * columns else [rows]
