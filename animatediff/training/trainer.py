"""One worker's part of a training run: its model, its share of the data, and the step."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from animatediff.data.loading.loader import ClipBatch, ClipLoader
from animatediff.data.loading.mixing import MixedLoader
from animatediff.data.loading.order import Batching
from animatediff.data.loading.selection import ClipFilter
from animatediff.data.manifest import read_manifest
from animatediff.diffusion.conditioning import Conditioning
from animatediff.diffusion.schedule import compute_alphas_cumprod
from animatediff.models.computing.precision import has_native_bfloat16, training_dtype
from animatediff.training.recipes.table import recipe_of
from animatediff.training.settings import PicturesConfig, RecipeConfig
from animatediff.training.state.ema import Ema
from animatediff.training.state.training_state import TrainingState
from animatediff.training.step.denoising_loss import sums_by_timestep_quarter
from animatediff.training.step.draws import Draws, RandomSource, select_clips
from animatediff.training.step.optimizer import keep_loss_scale_above_one, learning_rate, make_optimizer, optimizer_step
from animatediff.training.step.skipped_steps import SkippedSteps
from animatediff.training.step.tags import BatchPlace, vary_captions
from animatediff.training.text import CaptionEncoder
from animatediff.training.trained_model import place_on_device
from animatediff.weights.base import load_text_encoders


class StepResult(NamedTuple):
    """What a step measured, as tensors on the device: reading one waits for the device."""

    loss_sums: Tensor
    """(2 4) of this worker's clips, see `sums_by_timestep_quarter`; clips whose loss is not finite are left out."""
    grad_norm: Tensor
    """Of all workers' mean gradient, before clipping."""


class Trainer:
    """Trains what a config's recipe says on a frozen base.

    With several workers, each takes its share of every global batch; the process group must be there. The workers
    average the gradients of what is trained, and nothing else is ever exchanged: they may have different bases.

    Args:
        config: what to train.
        device: where this worker computes.
        rank: this worker, in [0, world_size).
        world_size: workers, at most the batch size.

    Raises:
        UserError: the dataset, the base or a weights file cannot be read, or they do not fit.
    """

    def __init__(self, config: RecipeConfig, *, device: torch.device, rank: int = 0, world_size: int = 1) -> None:
        self._config, self._world_size = config, world_size
        self.recipe = recipe_of(config)
        schedule = self.recipe.noise_schedule
        encoders = load_text_encoders(config.base)
        self.model = self.recipe.build(encoders, seed=config.train.seed, rank=rank)
        # One precision for all workers: where only some scaled their losses, the others would wait for them for ever.
        is_native = all_gather_lists([str(has_native_bfloat16(device))], world_size)
        is_native_and_enough = self.recipe.bears_bfloat16 and "False" not in is_native
        dtype = training_dtype(config.compute.precision, device, is_native=is_native_and_enough)
        place_on_device(self.model, device, dtype)
        self._caption_encoder = CaptionEncoder.of_run(config, encoders, device, dtype)
        self._encode = (
            self._caption_encoder.with_empty_negative if self.recipe.loss_is_guided else self._caption_encoder
        )
        self._parameters = list(self.model.trainable.parameters())
        self.optimizer = make_optimizer(self._parameters, config.optim)
        self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.ema = Ema(self._parameters, config.train.ema_decay) if config.train.ema_decay else None
        if self.ema is not None:
            self.model.averages = self.ema.averages
        self._state = TrainingState(self.recipe, self.model, self.optimizer, self._scaler, self.ema)
        self.skipped_steps = SkippedSteps(
            config.train.max_skipped_steps,
            lambda clip_ids: all_gather_lists(clip_ids, world_size),
            lr=config.optim.lr,
            scaler_may_skip=dtype == torch.float16,
            on_skip=lambda: keep_loss_scale_above_one(self._scaler),
        )
        self._random = RandomSource(
            *(config.train.seed, schedule.num_train_timesteps, config.train.caption_dropout),
            *(config.objective, config.pictures or PicturesConfig()),
        )
        self._alphas_cumprod = compute_alphas_cumprod(schedule).to(device)
        self._wrapped_model = self._wrap_model()
        self.loader = _loader(config, rank, world_size)

    def steps(self, start: int) -> Iterator[tuple[int, StepResult]]:
        """Train from step `start` to the config's last one, yielding after each step how many are done.

        Raises:
            UserError: a shard is missing or damaged, or too many steps in a row gave no finite gradients.
        """
        for step, batch in zip(range(start, self._config.train.num_steps), self.loader.batches(start), strict=False):
            yield step + 1, self._step(step, batch)
        self.skipped_steps.check_last_step()

    def _step(self, step: int, batch: ClipBatch) -> StepResult:
        """Take one step, as one of the workers, which have shares of a global batch of B clips.

        For a clip with the latents x and the caption c, the draws are the noise e, the timestep t, and whether c is
        replaced by the empty caption. With a = alphas_cumprod[t] and the trained weights W:

            x_t  = sqrt(a) x + sqrt(1 - a) e                                what the model is given
            y    = e                              for epsilon
                   sqrt(a) e - sqrt(1 - a) x      for v_prediction          what it should predict
            L    = w(t) mean((model_W(x_t, t, c) - y)^2)                    the clip's loss; w = 1 without min-SNR
            g    = gradient of (1 / B) sum of L over all workers' clips
            W    = AdamW(W, g min(1, max_grad_norm / |g|), lr(step))        or W as it was, where g is not finite
            A    = d A + (1 - d) W                                          the average, if one is kept; d = decay(step)

        A recipe may have a loss of its own in place of L.
        """
        optim, num_steps = self._config.optim, self._config.train.num_steps
        draws = self._random.draw(tuple(batch.latents.shape), step=step, first_index=batch.first_index)
        losses = self._accumulate_gradients(self._with_varied_captions(batch, step), draws)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, step=step, num_steps=num_steps)
        done = optimizer_step(self.optimizer, self._scaler, self._parameters, max_grad_norm=optim.max_grad_norm)
        if self.ema is not None:
            self.ema.update(step)
        self.skipped_steps.add(step, done.is_finite, losses, batch.clip_ids)
        return StepResult(sums_by_timestep_quarter(losses, draws.timesteps, self._random.num_timesteps), done.grad_norm)

    def _with_varied_captions(self, batch: ClipBatch, step: int) -> ClipBatch:
        """Return the batch with the captions' tags in the order and number that this step trains on."""
        place = BatchPlace(self._config.train.seed, step, batch.first_index)
        return replace(batch, captions=vary_captions(batch.captions, batch.tags, self._config.text, place))

    def _accumulate_gradients(self, batch: ClipBatch, draws: Draws) -> Tensor:
        """Add up g over passes of at most `micro_batch_size` clips; return the losses L of this worker's, (b)."""
        captions = ["" if dropped else c for dropped, c in zip(draws.captions_dropped, batch.captions, strict=True)]
        passes = torch.arange(len(captions)).split(self._config.compute.micro_batch_size or len(captions))
        losses = []
        for chosen in passes:
            with nullcontext() if chosen is passes[-1] else self._without_sync():
                found = self.recipe.loss(
                    self._wrapped_model,
                    batch.latents[chosen],
                    self._conditioning(batch, captions, chosen.tolist()),
                    select_clips(draws, chosen),
                    self._alphas_cumprod,
                )
                # DistributedDataParallel takes the mean of the workers' gradients, whose shares may differ by a clip.
                # Of sums of losses times (workers / B) that is the gradient of the sum over all clips, divided by B.
                clip_weight = self._world_size / self._config.train.batch_size
                self._scaler.scale(found.sum() * clip_weight).backward()
            losses.append(found.detach())
        return torch.cat(losses)

    def _conditioning(self, batch: ClipBatch, captions: list[str], chosen: list[int]) -> Conditioning:
        """Return what some of a batch's clips are conditioned on, with `captions` in place of their own."""
        height, width = batch.latents.shape[-2:]
        return self._encode(
            [captions[i] for i in chosen],
            height=height,
            width=width,
            source_crops=[batch.source_crops[i] for i in chosen],
        )

    def save(self, folder: Path, *, step: int) -> None:
        """Write the training state after `step` steps into an existing folder."""
        self._state.save(folder, step=step, skipped_steps=self.skipped_steps.number)

    def load(self, folder: Path) -> int:
        """Continue from a saved state.

        Returns:
            The steps it had done.

        Raises:
            UserError: the state's weights are damaged or of another shape.
        """
        step, self.skipped_steps.number = self._state.load(folder)
        return step

    def write_weights(self, uri: str) -> None:
        """Write the weights file that has been trained."""
        self._state.write_weights(uri)

    def _without_sync(self) -> AbstractContextManager[None]:
        """Keep the gradients here: DistributedDataParallel reduces them once a step, with the last micro-batch."""
        model = self._wrapped_model
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _wrap_model(self) -> nn.Module:
        model: nn.Module = self.model
        self.model.checkpoint_activations(self._config.compute.activation_checkpointing)
        if self._config.compute.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self._world_size > 1:
            # init_sync and broadcast_buffers off: the weights are equal already, and the frozen base never travels.
            model = DistributedDataParallel(model, init_sync=False, broadcast_buffers=False)
        return model


def _loader(config: RecipeConfig, rank: int, world_size: int) -> ClipLoader | MixedLoader:
    def open_loader(uri: str, where: str) -> ClipLoader:
        train = config.train
        return ClipLoader(
            uri,
            read_manifest(uri),
            Batching(batch_size=train.batch_size, seed=train.seed, rank=rank, world_size=world_size),
            ClipFilter(where=where, holdout=train.holdout),
        )

    loader = open_loader(config.dataset_uri, config.where)
    if config.mix.dataset_uri is None:
        return loader
    return MixedLoader(loader, open_loader(config.mix.dataset_uri, config.mix.where), other_fraction=config.mix.share)


def all_gather_lists(values: list[str], world_size: int) -> list[str]:
    """Return all workers' lists, joined; every worker calls it."""
    if world_size == 1:
        return values
    lists: list[list[str]] = [[] for _ in range(world_size)]
    torch.distributed.all_gather_object(lists, values)
    return [entry for one in lists for entry in one]
