"""One worker's part of a training run: its model, its share of the data, and the step."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from animatediff.data.loader import ClipBatch, ClipLoader
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.schedule import alphas_cumprod
from animatediff.training import state
from animatediff.training.model import build, place
from animatediff.training.optimizer import learning_rate, make_optimizer
from animatediff.training.recipe import Recipe
from animatediff.training.step import draw, noise_loss, update
from animatediff.training.text import CaptionEncoder


class StepResult(NamedTuple):
    """What a step measured, as scalar tensors on the device: reading one waits for the device."""

    loss: Tensor
    """Of this worker's clips."""
    grad_norm: Tensor
    """Of all workers' mean gradient, before clipping."""


class Trainer:
    """Trains motion modules on a frozen base.

    With several workers, each holds the same weights and takes its share of every global batch; the process group
    must be there. The workers average the motion parameters' gradients, and nothing else is ever exchanged.

    Args:
        recipe: what to train.
        device: where this worker computes.
        rank: this worker, in [0, world_size).
        world_size: workers; the batch size divides by it.

    Raises:
        UserError: the dataset or the base cannot be read, or they do not fit.
    """

    def __init__(self, recipe: Recipe, *, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self._recipe, self._device = recipe, device
        self.unet = build(recipe.model, recipe.base, seed=recipe.train.seed)
        dtype = place(self.unet, device)
        self._text = CaptionEncoder(recipe.base, device, dtype)
        self._parameters = list(self.unet.motion.parameters())
        self.optimizer = make_optimizer(self._parameters, recipe.optim)
        self._signal = alphas_cumprod(recipe.schedule).to(device)
        self._predict: nn.Module = self.unet
        if world_size > 1:
            # init_sync and broadcast_buffers off: the weights are equal already, and the frozen base never travels.
            self._predict = DistributedDataParallel(self.unet, init_sync=False, broadcast_buffers=False)
        self.loader = ClipLoader(
            recipe.dataset_uri,
            read_manifest(recipe.dataset_uri),
            batch_size=recipe.train.batch_size,
            seed=recipe.train.seed,
            rank=rank,
            world_size=world_size,
            where=recipe.where,
        )

    def steps(self, start: int) -> Iterator[tuple[int, StepResult]]:
        """Train from step `start` to the recipe's last one, yielding after each step how many are done.

        Raises:
            UserError: a shard is missing or damaged.
        """
        for step, batch in zip(range(start, self._recipe.train.num_steps), self.loader.batches(start), strict=False):
            yield step + 1, self._step(step, batch)

    def _step(self, step: int, batch: ClipBatch) -> StepResult:
        train = self._recipe.train
        draws = draw(
            tuple(batch.latents.shape),
            seed=train.seed,
            step=step,
            first_index=batch.first_index,
            num_timesteps=self._recipe.schedule.num_train_timesteps,
            caption_dropout=train.caption_dropout,
        )
        captions = ["" if dropped else c for dropped, c in zip(draws.dropped, batch.captions, strict=True)]
        latents = batch.latents.to(self._device)
        loss = noise_loss(self._predict, latents, self._text(captions), draws, self._signal)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._recipe.optim, step=step, num_steps=train.num_steps)
        grad_norm = update(self.optimizer, self._parameters, max_grad_norm=self._recipe.optim.max_grad_norm)
        return StepResult(loss.detach(), grad_norm)

    def save(self, folder: Path, *, step: int) -> None:
        """Write the training state after `step` steps into an existing folder."""
        state.save(folder, self.unet.motion, self.optimizer, step=step, config=self._recipe.model_dump(mode="json"))

    def load(self, folder: Path) -> int:
        """Continue from a saved state.

        Returns:
            The steps it had done.

        Raises:
            UserError: the state's motion module is damaged or of another shape.
        """
        return state.load(folder, self.unet.motion, self.optimizer)
