"""The model that is trained: a frozen base, and what learns on it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from animatediff.diffusion.conditioning import Conditioning, Control
from animatediff.models.config import ActivationCheckpointing
from animatediff.models.control.sparse_control import SparseControlNet
from animatediff.models.lora import LowRankAdapters
from animatediff.models.motion_unet import MotionModules, MotionUNet


class TrainedModel(nn.Module, ABC):
    """A frozen UNet, and what is trained on it.

    Args:
        unet: with the trained layers already in it.
        trainable: what is trained: the UNet's motion modules, adapters on its layers, or a network beside it.
    """

    def __init__(self, unet: nn.Module, trainable: MotionModules | LowRankAdapters | SparseControlNet) -> None:
        super().__init__()
        self.unet = unet.requires_grad_(False).eval()
        # Each recipe handles the class that it builds.
        self.trainable: Any = trainable.requires_grad_(True)
        self.averages: Sequence[Tensor] | None = None
        """Of the trained weights, parameter by parameter, where the run keeps any."""

    def train(self, mode: bool = True) -> Self:
        """Switch what is trained; what is frozen stays in evaluation mode."""
        self.training = mode
        self.trainable.train(mode)
        return self

    @property
    @abstractmethod
    def adapted_module(self) -> nn.Module:
        """The module that adapters are put on."""

    @abstractmethod
    def forward(self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise or velocity.

        Args:
            sample: (b c f h w) noisy latents.
            timesteps: (b).
            conditioning: of the clips.

        Returns:
            (b c f h w).
        """

    @abstractmethod
    def checkpoint_activations(self, which: ActivationCheckpointing) -> None:
        """Compute activations again for the gradients, as `ComputeConfig.activation_checkpointing` says."""


class ClipModel(TrainedModel):
    """Trained on clips: a motion UNet, and its motion modules or adapters on them."""

    unet: MotionUNet

    @property
    def adapted_module(self) -> MotionModules:
        """The motion modules."""
        return self.unet.motion

    def forward(self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise or velocity of clips."""
        return self.unet(sample, timesteps, conditioning)

    def checkpoint_activations(self, which: ActivationCheckpointing) -> None:
        """Choose what the motion UNet computes again for the gradients."""
        self.unet.activation_checkpointing = which


Weights = Literal["student", "teacher", "target"]
"""Of a model that is distilled: what learns, what it learns from, and the first's average, which is the first itself
where the run keeps none."""


class DistilledModel(ClipModel):
    """Trained on what it predicted itself before: the trained weights as they began are the teacher's.

    Only one set of weights is in the layers at a time, so that adapters and whole motion modules are alike.
    """

    def __init__(self, unet: MotionUNet, trainable: MotionModules | LowRankAdapters) -> None:
        super().__init__(unet, trainable)
        for index, parameter in enumerate(self.trainable.parameters()):
            self.register_buffer(f"teacher_{index}", parameter.detach().clone(), persistent=False)

    def forward(
        self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning, weights: Weights = "student"
    ) -> Tensor:
        """Predict the noise or velocity of clips by one of the three sets of weights; only the student's learn."""
        others = self._weights(weights)
        if others is None:
            return super().forward(sample, timesteps, conditioning)
        own = self._exchange(others)
        try:
            return super().forward(sample, timesteps, conditioning)
        finally:
            self._exchange(own)

    def _weights(self, weights: Weights) -> Sequence[Tensor] | None:
        if weights == "teacher":
            return [self.get_buffer(f"teacher_{index}") for index, _ in enumerate(self.trainable.parameters())]
        return self.averages if weights == "target" else None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _exchange(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Put tensors in the place of the trained ones, which are returned; nothing is copied."""
        own = []
        for parameter, tensor in zip(self.trainable.parameters(), tensors, strict=True):
            own.append(parameter.data)
            parameter.data = tensor
        return own


class SparseControlModel(TrainedModel):
    """Trained on clips of which it is shown some frames: a frozen motion UNet, and a SparseCtrl encoder beside it."""

    unet: MotionUNet

    def __init__(self, unet: MotionUNet, trainable: SparseControlNet) -> None:
        super().__init__(unet, trainable)
        trainable.conv_in.weight.requires_grad_(False)  # it sees zeros alone, so that there is nothing to learn

    @property
    def adapted_module(self) -> MotionModules:
        """The motion modules."""
        return self.unet.motion

    def forward(  # type: ignore[override]
        self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning, pictures: Tensor
    ) -> Tensor:
        """Predict the noise or velocity of clips, given `pictures` as `sparse_condition` makes them."""
        network: SparseControlNet = self.trainable
        scale = torch.ones(len(sample), sample.shape[2], device=sample.device)
        control = Control(network, network.embed_condition(pictures), scale)
        return self.unet(sample, timesteps, replace(conditioning, controls=(control,)))

    def checkpoint_activations(self, which: ActivationCheckpointing) -> None:
        """Choose what the motion UNet and the encoder compute again for the gradients."""
        self.unet.activation_checkpointing = which
        self.trainable.activation_checkpointing = which


class ImageModel(TrainedModel):
    """Trained on single frames, (b c 1 h w): the base's UNet alone, and adapters on it."""

    unet: UNet2DConditionModel

    @property
    def adapted_module(self) -> UNet2DConditionModel:
        """The base's UNet."""
        return self.unet

    def forward(self, sample: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the noise or velocity of single frames."""
        added = {"text_embeds": conditioning.pooled_text, "time_ids": conditioning.time_ids}  # which SDXL alone reads
        return self.unet(sample[:, :, 0], timesteps, conditioning.text, added_cond_kwargs=added).sample[:, :, None]

    def checkpoint_activations(self, which: ActivationCheckpointing) -> None:
        """Choose whether the UNet computes its units again: all, or none, as it has no motion modules."""
        if which == "all":
            self.unet.enable_gradient_checkpointing()


def place_on_device(model: TrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Move the model to its device: what is frozen in `dtype`, what is trained in float32."""
    model.to(device)
    trainable = {id(module) for module in model.trainable.modules()}
    for module in model.unet.modules():
        if id(module) not in trainable:
            _cast_own(module, dtype)


def _cast_own(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast a module's own tensors, not its children's: casting there and back would round what is trained."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
