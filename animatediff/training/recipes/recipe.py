"""What every recipe answers: does its config suit it, which model does it train, by which loss, and to which file.

Configs are checked by their recipes before torch is imported, so recipes import what computes where they use it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from animatediff.diffusion.noise_schedule import NoiseSchedule
from animatediff.errors import UserError
from animatediff.training.settings import BASE_AS_IS, RecipeConfig
from animatediff.weights.layouts.few_step import FewStepSampling

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
    from animatediff.models.prompt_encoders import TextEncoderParts
    from animatediff.training.step.draws import Draws
    from animatediff.training.trained_model import TrainedModel


@dataclass(frozen=True)
class SamplingWeights:
    """The weights files that show a recipe's result when clips are sampled on the base."""

    motion_module: str | None
    domain_adapter: str | None = None
    motion_loras: tuple[str, ...] = ()
    sparse_control: str | None = None
    is_still: bool = False
    """Whether single pictures are sampled, as the result knows no motion."""


class Recipe(ABC):
    """One way to train, by one run's config. The first paragraph of its docstring is what `--help` says of it.

    Args:
        config: says what to train, and how.
    """

    weights_file: ClassVar[str]
    """Name of the weights file in a run's folder and in its checkpoints."""
    loss_is_guided: ClassVar[bool] = False
    """Whether the loss guides, so that clips are conditioned on the empty caption too, as their negative one."""
    bears_bfloat16: ClassVar[bool] = True
    """Whether it learns as well from predictions in bfloat16, which `compute.precision: auto` may then mean."""
    shows_pictures: ClassVar[bool] = False
    """Whether the model is shown pictures of the clips, as `RecipeConfig.pictures` says."""

    def __init__(self, config: RecipeConfig) -> None:
        self.config = config

    @abstractmethod
    def validate(self) -> None:
        """Find out whether the config suits the recipe, before torch is imported.

        Raises:
            ValueError: it does not, with the fields to change.
        """

    @abstractmethod
    def attach(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "TrainedModel":
        """Put what is trained on the frozen base.

        Args:
            unet: the base's; on the meta device where no weights are read.
            with_weights: whether they are read from their files; else the model has shapes alone, on the meta device.

        Returns:
            The model, fresh weights drawn from torch's global generator.

        Raises:
            UserError: a part is missing or they do not fit.
        """

    @abstractmethod
    def write(self, uri: str, model: "TrainedModel") -> None:
        """Write what was trained as a weights file in its published layout, atomically.

        Raises:
            UserError: it cannot be written.
        """

    @abstractmethod
    def load_weights(self, uri: str, model: "TrainedModel") -> None:
        """Load a weights file that `write` wrote into the model's trainable part.

        Raises:
            UserError: it is damaged or was made for another model.
        """

    @abstractmethod
    def sampling_weights(self, weights_uri: str) -> SamplingWeights:
        """Return the weights files to sample with, `weights_uri` being the one that was trained."""

    @property
    def few_step(self) -> FewStepSampling | None:
        """What the result must be sampled with, where few steps are enough; None where any settings will do."""
        return None

    @cached_property
    def resolved_config(self) -> RecipeConfig:
        """The config with its noise schedule complete.

        Precedence, field by field: the config, then the file of `model.motion_module`, then what its version was
        published with, for what the base and its checkpoints predict.

        Raises:
            UserError: the file or the base cannot be read, or what they and the config say together is no schedule.
        """
        from animatediff.training.recipes.noise_schedule import with_noise_schedule

        return with_noise_schedule(self.config)

    @cached_property
    def noise_schedule(self) -> NoiseSchedule:
        """The schedule that is trained with, and must be sampled with.

        Raises:
            UserError: as for `resolved_config`.
        """
        return self.resolved_config.schedule.apply_to(NoiseSchedule())

    def build(self, text_encoders: "TextEncoderParts", *, seed: int, rank: int = 0) -> "TrainedModel":
        """Return the model on the CPU in float32: the base frozen, the rest to be trained.

        Args:
            text_encoders: the base's; what the config adds to the base is added to them too.
            seed: of fresh weights.
            rank: this worker, which says whose turn it is of `base_checkpoints`.

        Raises:
            UserError: the config does not suit the recipe, a part is missing or they do not fit.
        """
        import torch

        from animatediff.training.frozen_base import load_frozen_base

        try:
            self.validate()
        except ValueError as error:
            raise UserError(str(error)) from error

        prediction_type = self.noise_schedule.prediction_type
        unet = load_frozen_base(self.config, text_encoders, prediction_type=prediction_type, rank=rank)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.attach(unet, with_weights=True)

    def count_parameters(self) -> tuple[int, int]:
        """Return the numbers of parameters that stay frozen, and of those that are trained; no weight is read or made.

        Raises:
            UserError: a part is missing or they do not fit.
        """
        from animatediff.training.frozen_base import unet_on_meta

        model = self.attach(unet_on_meta(self.config.base), with_weights=False)
        trained = sum(parameter.numel() for parameter in model.trainable.parameters())
        return sum(parameter.numel() for parameter in model.parameters()) - trained, trained

    def check_fit(self, latent_shape: tuple[int, int, int, int]) -> None:
        """Find out before any worker starts whether model, base and data go together. No base weight is read.

        Args:
            latent_shape: (f c h w) of the dataset's clips.

        Raises:
            UserError: a part is missing or they do not fit.
        """
        from animatediff.weights.base_facts import BaseFacts, check_kind, check_prediction

        base, channels = self.config.base, latent_shape[1]
        facts = BaseFacts(base)
        check_kind(facts)
        if BASE_AS_IS in (self.config.base_checkpoints or (BASE_AS_IS,)):
            check_prediction(facts, self.noise_schedule.prediction_type)
        wanted = facts.unet_channels
        if channels != wanted:
            raise UserError(
                f"the dataset's latents have {channels} channels, the UNet of base {base} takes {wanted}: was the "
                "dataset encoded with another base's VAE?"
            )

    def check_start(self) -> None:  # noqa: B027 - most recipes start from anything that fits
        """Find out before any worker starts whether the weights to start from suit the recipe.

        Raises:
            UserError: it cannot be read, or is for another recipe.
        """

    def loss(
        self,
        predict: "NoisePredictor",
        latents: "Tensor",
        conditioning: "Conditioning",
        draws: "Draws",
        alphas_cumprod: "Tensor",
    ) -> "Tensor":
        """Return each clip's loss: the mean squared error of the prediction, times the clip's weight.

        Args:
            predict: the model that `build` made, or what wraps it.
            latents: (b c f h w) float32 on the CPU, multiplied by the scaling factor.
            conditioning: of the clips; its dtype is the model's under autocast.
            draws: noise and timesteps.
            alphas_cumprod: (T) of the noise schedule, on the model's device.

        Returns:
            (b) float32 on that device; the loss of a batch is their mean.
        """
        from animatediff.training.step.denoising_loss import DenoisingLoss

        losses = DenoisingLoss(alphas_cumprod, self.noise_schedule.prediction_type, self.config.objective)
        return losses(predict, latents, conditioning, draws)
