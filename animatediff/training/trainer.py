"""One worker's part of a training run: its model, its share of the data, and the step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from animatediff.data.loading.loader import ClipBatch, ClipLoader
from animatediff.data.loading.mixing import MixedLoader
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.errors import UserError
from animatediff.models.motion_unet import MotionUNet
from animatediff.training import state
from animatediff.training.ema import Ema
from animatediff.training.model import build, place
from animatediff.training.objective import quartile_sums
from animatediff.training.optimizer import keep_scale, learning_rate, make_optimizer, update
from animatediff.training.recipe import Recipe
from animatediff.training.schedules import with_schedule
from animatediff.training.skips import Skips
from animatediff.training.step import Draws, clip_losses, draw, of_clips, single_frames, to_device
from animatediff.training.text import CaptionEncoder
from animatediff.weights.base import load_text_encoders
from animatediff.weights.base_facts import BaseFacts


class StepResult(NamedTuple):
    """What a step measured, as tensors on the device: reading one waits for the device."""

    sums: Tensor
    """(2 4) of this worker's clips, see `quartile_sums`; clips whose loss is not finite are left out."""
    grad_norm: Tensor
    """Of all workers' mean gradient, before clipping."""


class Trainer:
    """Trains what a recipe says on a frozen base.

    With several workers, each takes its share of every global batch; the process group must be there. The workers
    average the gradients of what is trained, and nothing else is ever exchanged: they may have different bases.

    Args:
        recipe: what to train.
        device: where this worker computes.
        rank: this worker, in [0, world_size).
        world_size: workers, at most the batch size.

    Raises:
        UserError: the dataset, the base or a weights file cannot be read, or they do not fit; or the workers do not
            all compute in one precision.
    """

    def __init__(self, recipe: Recipe, *, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        recipe = with_schedule(recipe)
        self._recipe, self._device, self._world_size = recipe, device, world_size
        encoders = load_text_encoders(recipe.base)
        self.model = build(recipe, encoders, seed=recipe.train.seed, rank=rank)
        dtype = place(self.model, device, recipe.compute.precision)
        if world_size > 1:
            _check_same_precision(dtype, world_size)
        self._text = CaptionEncoder(BaseFacts(recipe.base), encoders, device, dtype)
        self._parameters = list(self.model.trainable.parameters())
        self.optimizer = make_optimizer(self._parameters, recipe.optim)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.ema = Ema(self._parameters, recipe.train.ema_decay) if recipe.train.ema_decay else None
        self.skips = Skips(
            recipe.train.max_skipped_steps,
            lambda clip_ids: gathered(clip_ids, world_size),
            lr=recipe.optim.lr,
            overflows=dtype == torch.float16,
            on_skip=lambda: keep_scale(self._scaler),
        )
        self._signal = compute_alphas_cumprod(recipe.noise_schedule).to(device)
        self._predict = self._distributed(recipe)
        self.loader = _loader(recipe, rank, world_size)

    def steps(self, start: int) -> Iterator[tuple[int, StepResult]]:
        """Train from step `start` to the recipe's last one, yielding after each step how many are done.

        Raises:
            UserError: a shard is missing or damaged, or too many steps in a row gave no finite gradients.
        """
        for step, batch in zip(range(start, self._recipe.train.num_steps), self.loader.batches(start), strict=False):
            yield step + 1, self._step(step, batch)
        self.skips.check()

    def _step(self, step: int, batch: ClipBatch) -> StepResult:
        train = self._recipe.train
        draws = draw(
            tuple(batch.latents.shape),
            objective=self._recipe.objective,
            seed=train.seed,
            step=step,
            first_index=batch.first_index,
            num_timesteps=self._recipe.noise_schedule.num_train_timesteps,
            caption_dropout=train.caption_dropout,
        )
        losses = self._accumulate(batch, draws)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._recipe.optim, step=step, num_steps=train.num_steps)
        done = update(self.optimizer, self._scaler, self._parameters, max_grad_norm=self._recipe.optim.max_grad_norm)
        if self.ema is not None:
            self.ema.update(step)
        self.skips.add(step, done.is_finite, losses, batch.clip_ids)
        return StepResult(
            quartile_sums(losses, draws.timesteps, self._recipe.noise_schedule.num_train_timesteps), done.grad_norm
        )

    def _accumulate(self, batch: ClipBatch, draws: Draws) -> Tensor:
        """Return the gradients of the global batch's mean loss, on the parameters.

        And this worker's clips' losses, (b).
        """
        latents = batch.latents
        if self.model.takes_single_frames:
            latents, draws = single_frames(latents, draws)
        captions = ["" if dropped else c for dropped, c in zip(draws.dropped, batch.captions, strict=True)]
        passes = torch.arange(len(latents)).split(self._recipe.compute.micro_batch_size or len(latents))
        losses = []
        for chosen in passes:
            with nullcontext() if chosen is passes[-1] else self._without_sync():
                height, width = latents.shape[-2:]
                found = clip_losses(
                    self._predict,
                    to_device(latents[chosen], self._device),
                    self._text([captions[i] for i in chosen.tolist()], height=height, width=width),
                    of_clips(draws, chosen),
                    self._signal,
                    schedule=self._recipe.noise_schedule,
                    objective=self._recipe.objective,
                )
                # Workers' shares may differ by a clip: their mean of these is the batch's mean all the same.
                share = self._world_size / self._recipe.train.batch_size
                self._scaler.scale(found.sum() * share).backward()
            losses.append(found.detach())
        return torch.cat(losses)

    def save(self, folder: Path, *, step: int) -> None:
        """Write the training state after `step` steps into an existing folder."""
        state.save(
            folder,
            self.model,
            self.optimizer,
            self._scaler,
            self.ema,
            step=step,
            skipped_steps=self.skips.number,
            recipe=self._recipe,
        )

    def load(self, folder: Path) -> int:
        """Continue from a saved state.

        Returns:
            The steps it had done.

        Raises:
            UserError: the state's weights are damaged or of another shape.
        """
        step, self.skips.number = state.load(
            folder, self._recipe.result_file, self.model, self.optimizer, self._scaler, self.ema
        )
        return step

    def write_result(self, uri: str) -> None:
        """Write the weights file that has been trained."""
        state.write_result(uri, self.model, self.ema, self._recipe)

    def _without_sync(self) -> AbstractContextManager[None]:
        """Gradients travel once a step, with its last pass."""
        model = self._predict
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _distributed(self, recipe: Recipe) -> nn.Module:
        model: nn.Module = self.model
        if isinstance(self.model.unet, MotionUNet):
            self.model.unet.activation_checkpointing = recipe.compute.activation_checkpointing
        elif recipe.compute.activation_checkpointing == "all":
            self.model.unet.enable_gradient_checkpointing()
        if recipe.compute.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self._world_size > 1:
            # init_sync and broadcast_buffers off: the weights are equal already, and the frozen base never travels.
            model = DistributedDataParallel(model, init_sync=False, broadcast_buffers=False)
        return model


def _loader(recipe: Recipe, rank: int, world_size: int) -> ClipLoader | MixedLoader:
    def loader(uri: str, where: str) -> ClipLoader:
        train = recipe.train
        return ClipLoader(
            uri,
            read_manifest(uri),
            batch_size=train.batch_size,
            seed=train.seed,
            rank=rank,
            world_size=world_size,
            where=where,
            holdout=train.holdout,
        )

    own = loader(recipe.dataset_uri, recipe.where)
    if recipe.mix.dataset_uri is None:
        return own
    return MixedLoader(own, loader(recipe.mix.dataset_uri, recipe.mix.where), share=recipe.mix.share)


def _check_same_precision(dtype: torch.dtype, world_size: int) -> None:
    """Every worker raises, or none: where only some scale their losses, the others would wait for them for ever."""
    names = sorted({name.removeprefix("torch.") for name in gathered([str(dtype)], world_size)})
    if len(names) > 1:
        raise UserError(
            f"the workers' devices compute in different precisions ({', '.join(names)}): set compute.precision to one "
            "that all of them have, such as float16"
        )


def gathered(own: list[str], world_size: int) -> list[str]:
    """Return all workers' lists, joined; every worker calls it."""
    if world_size == 1:
        return own
    lists: list[list[str]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(lists, own)
    return [entry for one in lists for entry in one]
