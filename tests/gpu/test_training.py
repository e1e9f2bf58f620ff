"""Training steps in every precision, and a checkpoint that goes on bit for bit.

A training step's bound is on its gradient's length, beside float32's: 16 u of the forward pass (see test_precision)
and as much again of the backward pass.
"""

import time

import pytest
import torch

from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from tests.gpu.dataset import write_dataset
from tests.gpu.test_precision import bound_of

PRECISIONS = ("float32", "bfloat16", "float16")


@pytest.fixture(scope="module")
def dataset(size, tmp_path_factory):
    # 32 latents a side: 256 pixels, as the reference trains.
    side = 32 if size.is_full else 8
    return write_dataset(tmp_path_factory.mktemp("data"), num_clips=4, shape=(size.num_frames, 4, side, side))


def config_of(base, dataset, precision, **sections):
    sections = {"train": {"num_steps": 2, "batch_size": 1, "seed": 5, "ema_decay": 0.9}, "optim": {"lr": 1e-4}} | sections
    return TrainingConfig(dataset_uri=dataset, base=base, compute={"precision": precision}, **sections)


def run(trainer, start=0):
    return [(result.sums.tolist(), result.grad_norm.item()) for _, result in trainer.steps(start)]


def test_steps_in_half_precision_are_near_to_float32s(base, dataset, device, table):
    norms = {}
    for precision in PRECISIONS:
        trainer = Trainer(config_of(base, dataset, precision), device=device)
        trained = {(p.device, p.dtype) for p in trainer.model.trainable.parameters()}
        assert trained == {(device, torch.float32)}
        assert trainer._scaler.is_enabled() == (precision == "float16")
        start = time.monotonic()
        # With a scaler, the first steps may be skipped, until its scale suits.
        (sums, norm), *_ = run(trainer)
        norms[precision] = norm
        table.note("two training steps", f"{time.monotonic() - start:.2f} s", dtype=precision)
        assert torch.tensor(sums).isfinite().all()
        if precision != "float32":
            error = abs(norm - norms["float32"]) / norms["float32"]
            bound = 2 * bound_of(getattr(torch, precision))
            table.check("length of the first gradient, relative", error, dtype=precision, bound=bound)
        del trainer
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        table.note("training on a clip of 16 frames of 256 x 256, float32's peak memory", f"{peak:.1f} GiB")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_checkpoint_goes_on_bit_for_bit(tiny_base, device, table, precision, tmp_path):
    """With deterministic kernels: without, a GPU adds up some gradients in the order in which they come."""
    dataset = write_dataset(tmp_path / "data", num_clips=4, shape=(3, 4, 8, 8))
    config = config_of(tiny_base, dataset, precision, train={"num_steps": 4, "batch_size": 2, "ema_decay": 0.9})
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = Trainer(config, device=device)
        expected = run(whole)
        first = Trainer(config, device=device)
        for done, _ in first.steps(0):
            if done == 2:
                (tmp_path / "state").mkdir()
                first.save(tmp_path / "state", step=2)
                break
        second = Trainer(config, device=device)
        assert second.load(tmp_path / "state") == 2
        assert run(second, 2) == expected[2:]
        pairs = zip(second.model.trainable.parameters(), whole.model.trainable.parameters(), strict=True)
        differing = sum(not torch.equal(new, old) for new, old in pairs)
        table.check("weights that differ after a resume", differing, dtype=precision, bound=0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_activation_checkpointing_gives_the_same_gradients_for_less_memory(base, dataset, gpu, table):
    found = {}
    for which in ("none", "all"):
        compute = {"precision": "bfloat16", "activation_checkpointing": which}
        config = config_of(base, dataset, "bfloat16").model_copy(update={"compute": compute})
        config = TrainingConfig.model_validate(config.model_dump() | {"compute": compute})
        trainer = Trainer(config, device=gpu)
        torch.cuda.reset_peak_memory_stats()
        (_, norm), *_ = run(trainer)
        found[which] = norm
        table.note(f"training step, activations kept: {which}", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        del trainer
    table.check(
        "gradient with activation checkpointing, relative",
        abs(found["all"] / found["none"] - 1),
        dtype=torch.bfloat16,
        bound=bound_of(torch.bfloat16),
    )
