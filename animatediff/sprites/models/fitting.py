"""The loop that every small model of the sprite world is trained by: AdamW, a trapezoid of rates, averaged weights."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

logger = logging.getLogger(__name__)

_LOG_EVERY = 100


@dataclass(frozen=True)
class Fit:
    """How a model is trained.

    Attributes:
        num_steps: optimizer steps.
        lr: the learning rate between warm-up and decay.
        warmup: steps in which the rate rises evenly.
        decay: share of the steps, the last ones, in which it falls evenly to nothing. Before them the number of steps
            does not matter: a run that shows it needs longer goes on from its checkpoint with a larger one, and is
            then the very run that was planned so from the start.
        ema_decay: of the averaged weights, which are the result; 0 keeps the last ones.
        weight_decay: AdamW's.
        checkpoint_every: steps between checkpoints.
    """

    num_steps: int
    lr: float
    warmup: int = 50
    decay: float = 0.3
    ema_decay: float = 0.995
    weight_decay: float = 1e-2
    checkpoint_every: int = 250


def fit(model: nn.Module, loss: Callable[[int], Tensor], plan: Fit, checkpoint: Path | None = None) -> float:
    """Train the parameters of `model` that require a gradient, and leave their averages in it.

    A run that was killed goes on from its checkpoint and ends with the same weights, as long as `loss` draws whatever
    is random from its step.

    Args:
        model: trained in place; it is in training mode meanwhile, and in evaluation mode after.
        loss: step -> scalar. It calls the model.
        plan: how.
        checkpoint: file that is written while it runs, and read if it is there.

    Returns:
        Seconds that the steps took, those before a kill included.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.99), fused=True)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.ema_decay))
    model.train()
    first, spent_s = _restore(checkpoint, model, averaged, optimizer)
    began = time.monotonic()
    for step in range(first, plan.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * _schedule(step, plan)
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        averaged.update_parameters(model)
        done, elapsed_s = step + 1, time.monotonic() - began
        if done % _LOG_EVERY == 0 or done == plan.num_steps:
            left_min = (plan.num_steps - done) * elapsed_s / (done - first) / 60
            logger.info("step %d/%d loss %.4f, %.1f min left", done, plan.num_steps, value.item(), left_min)
        if checkpoint is not None and (done % plan.checkpoint_every == 0 or done == plan.num_steps):
            _save(checkpoint, done, spent_s + elapsed_s, model, averaged, optimizer)
    model.load_state_dict(averaged.module.state_dict())
    model.eval()
    return spent_s + time.monotonic() - began


def _schedule(step: int, plan: Fit) -> float:
    """Share of the highest learning rate."""
    rising = (step + 1) / max(1, plan.warmup)
    falling = (plan.num_steps - step) / max(1.0, plan.decay * plan.num_steps)
    return min(1.0, rising, falling)


def _save(
    checkpoint: Path,
    step: int,
    spent_s: float,
    model: nn.Module,
    averaged: AveragedModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    draft = checkpoint.with_name(checkpoint.name + ".tmp")
    state = {
        "step": step,
        "spent_s": spent_s,
        "model": model.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, draft)
    draft.replace(checkpoint)


def _restore(
    checkpoint: Path | None, model: nn.Module, averaged: AveragedModel, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Return the step to go on with, and the seconds spent until there."""
    if checkpoint is None or not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    averaged.load_state_dict(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    logger.info("going on from step %d of %s", state["step"], checkpoint)
    return int(state["step"]), float(state["spent_s"])
