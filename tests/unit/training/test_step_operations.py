"""What a dry run reckons with: the operations of the very passes that a step makes."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from animatediff.training.config import TrainingConfig
from animatediff.training.recipes.table import recipe_of
from animatediff.training.step_operations import clip_operations
from animatediff.training.trainer import Trainer
from tests.support_base import build_base
from tests.support_sdxl import build_sdxl
from tests.unit.data.loading.test_loader import write_dataset

SHAPE = (3, 4, 8, 8)


@pytest.mark.parametrize(
    ("kind", "recipe", "checkpointing"),
    [("sdxl", "motion_module", "all"), ("sd1", "domain_adapter", "none")],
)
def test_the_count_is_that_of_a_step(tmp_path, kind, recipe, checkpointing):
    base = build_sdxl(tmp_path / "base") if kind == "sdxl" else build_base(tmp_path / "base")
    config = TrainingConfig(
        recipe=recipe,
        dataset_uri=write_dataset(tmp_path / "data", shards=(2,), shapes=(SHAPE,)),
        base=str(base),
        train={"num_steps": 1, "batch_size": 2},
        compute={"activation_checkpointing": checkpointing},
    )
    trainer = Trainer(config, device=torch.device("cpu"))
    num_tokens = trainer._caption_encoder([""], height=8, width=8).text.shape[1]
    batch = trainer.loader.load(0)
    trainer._conditioning(batch, batch.captions, [0, 1])  # so that the captions' encoding is not counted
    trainer._caption_encoder([""], height=8, width=8)
    # The counter does not know a CPU's fused attention.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        next(trainer.steps(0))
    counted = 2 * clip_operations(recipe_of(config), SHAPE, num_tokens)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.01)
