"""Training steps in every precision, and a checkpoint that goes on bit for bit.

A training step's bound is on its gradient's length, beside float32's: 16 u of the forward pass (see test_precision)
and as much again of the backward pass.
"""

import math
import time
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from tests.gpu.dataset import write_dataset
from tests.gpu.test_precision import bound_of


@pytest.fixture(scope="module")
def dataset(size, tmp_path_factory):
    # 32 latents a side: 256 pixels, as the reference trains.
    side = 32 if size.is_full else 8
    return write_dataset(tmp_path_factory.mktemp("data"), num_clips=4, shape=(size.num_frames, 4, side, side))


def config_of(base, dataset, *, num_steps=2, batch_size=1, **compute):
    train = {"num_steps": num_steps, "batch_size": batch_size, "seed": 5, "ema_decay": 0.9}
    return TrainingConfig(dataset_uri=dataset, base=base, train=train, compute=compute)


def run(trainer, start=0):
    return [(result.loss_sums.tolist(), result.grad_norm.item()) for _, result in trainer.steps(start)]


def test_steps_in_half_precision_are_near_to_float32s(base, dataset, device, size, table):
    variants = [{"precision": precision} for precision in ("float32", "bfloat16", "float16")]
    variants.append({"precision": "bfloat16", "activation_checkpointing": "all"})
    wanted = None
    for compute in variants:
        trainer, precision = Trainer(config_of(base, dataset, **compute), device=device), compute["precision"]
        assert {(p.device, p.dtype) for p in trainer.model.trainable.parameters()} == {(device, torch.float32)}
        assert trainer._scaler.is_enabled() == (precision == "float16")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.monotonic()
        (_, norm), *_ = run(trainer)
        what = f"two training steps on {size.num_frames} frames, activations " + (
            "computed again" if "activation_checkpointing" in compute else "kept"
        )
        table.note(f"{what}: time", f"{time.monotonic() - start:.2f} s", dtype=precision)
        if device.type == "cuda":
            table.note(f"{what}: peak memory", f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", dtype=precision)
        if wanted is None:
            wanted = norm
        elif precision == "float16" and math.isinf(norm):
            table.note("first gradient", "skipped by the scaler, whose scale was too high", dtype=precision)
        else:
            bound = 2 * bound_of(getattr(torch, precision))
            table.check("length of the first gradient, relative", abs(norm / wanted - 1), dtype=precision, bound=bound)
        del trainer


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_checkpoint_goes_on_bit_for_bit(tiny_base, device, table, precision, tmp_path):
    """With deterministic kernels: without, a GPU adds up some gradients in the order in which they come."""
    dataset = write_dataset(tmp_path / "data", num_clips=4, shape=(3, 4, 8, 8))
    config = config_of(tiny_base, dataset, batch_size=2, precision=precision)
    with deterministic() as excepted:
        whole = Trainer(config, device=device)
        expected = run(whole)
        first = Trainer(config, device=device)
        next(first.steps(0))
        (tmp_path / "state").mkdir()
        first.save(tmp_path / "state", step=1)
        second = Trainer(config, device=device)
        assert second.load(tmp_path / "state") == 1
        found = run(second, 1)
    pairs = zip(second.model.trainable.parameters(), whole.model.trainable.parameters(), strict=True)
    differing = sum(not torch.equal(new, old) for new, old in pairs)
    table.note("kernels without a deterministic form", len(excepted), dtype=precision, bound="; ".join(excepted))
    table.check("weights that differ after a resume", differing, dtype=precision, bound=0)
    assert found == expected[1:]


@contextmanager
def deterministic():
    """Choose deterministic kernels; yields what has none, once the block has ended.

    The memory-efficient attention, which float32 would take, has no deterministic backward pass.
    """
    excepted, backends = [], [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(record=True) as caught, sdpa_kernel(backends):
            warnings.simplefilter("always")
            yield excepted
        excepted += sorted({str(w.message).split(" does not")[0] for w in caught if "determinis" in str(w.message)})
    finally:
        torch.use_deterministic_algorithms(False)
