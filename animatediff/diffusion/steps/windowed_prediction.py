"""What the UNet predicts for whole clips, put together from its predictions for windows of their frames."""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
from animatediff.diffusion.steps.deep_features import DeepFeatures
from animatediff.diffusion.steps.step_plan import Branch


class Windows(NamedTuple):
    """The windows of one step."""

    frames: list[list[int]]
    """Of each window, by index."""
    indices: Tensor
    """The same on the device, (windows length)."""
    weights: Tensor
    """Of each window's predictions, (windows length) float32."""


def windows_on_device(steps: list[list[list[int]]], device: torch.device) -> list[Windows]:
    """Copy each step's windows, of which all steps have equally many."""
    indices = torch.tensor(steps).to(device)
    weights = torch.stack([window_weights(frames) for frames in steps]).to(device)
    return [Windows(*step) for step in zip(steps, indices, weights, strict=True)]


def window_weights(window_frames: Sequence[Sequence[int]]) -> Tensor:
    """Return how much of a frame's prediction each window gives: (windows length) float32, in all 1 a frame.

    A window's share falls towards its ends, where the motion module sees least of what is around a frame.
    """
    frames = torch.tensor(window_frames)
    length = frames.shape[1]
    weights = (torch.arange(length) + 1.0).minimum(length - torch.arange(length)).expand(len(window_frames), length)
    total = torch.zeros(int(frames.max()) + 1).index_add_(0, frames.flatten(), weights.flatten())
    return weights / total[frames]


class WindowedPredictor:
    """Predicts whole clips, and keeps what later steps take again of the UNet's deep layers.

    Args:
        unet: as in `sampling.sample`.
        num_shallow_layers: of the decoder, that all steps compute; None keeps nothing.
        max_batch: as in `sampling.sample`.
    """

    def __init__(self, unet: NoisePredictor, num_shallow_layers: int | None, max_batch: int | None) -> None:
        self._unet, self._num_shallow_layers, self._max_batch = unet, num_shallow_layers, max_batch
        self._deep: dict[tuple[Branch, int, int], Tensor] = {}
        """Of each branch, clip and window: (f c h w)."""

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        branches: Mapping[Branch, Conditioning],
        windows: Windows,
        shallow: Collection[Branch] = (),
    ) -> dict[Branch, Tensor]:
        """Return the predictions for whole clips.

        Args:
            latents: (b c f h w), the UNet's input.
            timestep: of all clips.
            branches: conditionings of the clips, for each of which they are predicted.
            windows: all are of one length.
            shallow: the branches whose deep features are those of an earlier call, with the same windows.

        Returns:
            (b c f h w) float32 of each branch.
        """
        pairs = list(itertools.product(range(len(latents)), range(len(windows.frames))))
        size = self._max_batch or len(pairs)
        total = {branch: torch.zeros_like(latents) for branch in branches}
        chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        for chunk, alike in itertools.product(chunks, _alike(branches, shallow)):
            rows = [(branch, clip, window) for branch in alike for clip, window in chunk]
            conditioning = Conditioning.cat(
                [branches[branch].rows([clip]).frames(windows.frames[window]) for branch, clip, window in rows]
            )
            clips = torch.stack([latents[clip].index_select(1, windows.indices[window]) for clip, window in chunk])
            noisy = clips.to(conditioning.dtype).repeat(len(alike), 1, 1, 1, 1)
            predictions = self._predicted(rows, noisy, timestep, conditioning, is_shallow=alike[0] in shallow)
            for prediction, (branch, clip, window) in zip(predictions, rows, strict=True):
                part = prediction * windows.weights[window].reshape(-1, 1, 1)
                total[branch][clip].index_add_(1, windows.indices[window], part)
        return total

    def _predicted(
        self,
        rows: Sequence[tuple[Branch, int, int]],
        noisy: Tensor,
        timestep: Tensor,
        conditioning: Conditioning,
        *,
        is_shallow: bool,
    ) -> Tensor:
        """Return one call's predictions, a row each, (b c f h w) float32."""
        if self._num_shallow_layers is None:
            return self._unet(noisy, timestep, conditioning).float()
        kept = torch.cat([self._deep[row] for row in rows]) if is_shallow else None
        deep = DeepFeatures(self._num_shallow_layers, kept)
        predictions = self._unet(noisy, timestep, conditioning, deep).float()
        if deep.features is not None and not is_shallow:
            self._deep |= zip(rows, deep.features.unflatten(0, (len(rows), -1)), strict=True)
        return predictions


def _alike(branches: Mapping[Branch, Conditioning], shallow: Collection[Branch]) -> list[list[Branch]]:
    """Group the branches that fit into one call of the UNet."""
    groups: dict[object, list[Branch]] = defaultdict(list)
    for branch, conditioning in branches.items():
        groups[conditioning.batch_key, branch in shallow].append(branch)
    return list(groups.values())
