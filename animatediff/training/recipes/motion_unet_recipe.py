"""What the recipes that train on clips have in common: a motion UNet, and what is trained in it or beside it."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from animatediff.errors import UserError, errors_with_field
from animatediff.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from animatediff.models.lora import LowRankAdapters
    from animatediff.models.motion_unet import MotionModules, MotionUNet
    from animatediff.training.trained_model import ClipModel
    from animatediff.weights.layouts.few_step import FewStepSampling


class MotionUNetRecipe(Recipe):
    """Trains with a motion UNet."""

    def require_motion_module(self) -> None:
        """Make sure that there is a motion module to start from.

        Raises:
            ValueError: there is none.
        """
        if self.config.model.motion_module is None:
            raise ValueError(f"recipe {self.config.recipe} needs model.motion_module, the file to start from")

    def few_step_start(self) -> "FewStepSampling | None":
        """Return what the motion module to start from says that it must be sampled with, if it was distilled here.

        Raises:
            UserError: it cannot be read.
        """
        from animatediff.weights import motion_modules

        uri = self.config.model.motion_module
        if uri is None:
            return None
        with errors_with_field("model.motion_module"):
            return motion_modules.open_file(uri).few_step

    def motion_unet(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "MotionUNet":
        """Put motion modules into the base's UNet, the file's or fresh ones; arguments and errors are `attach`'s."""
        from animatediff.models.motion_unet import MotionUNet
        from animatediff.training.initial.motion_modules import load_motion, motion_on_meta

        make = load_motion if with_weights else motion_on_meta
        return MotionUNet(unet, make(unet, self.config.model, self.config.base))

    def check_fit(self, latent_shape: tuple[int, int, int, int]) -> None:
        """Check too that the motion modules fit the base, and the clips their position table."""
        from animatediff.training.frozen_base import unet_on_meta
        from animatediff.training.initial.motion_modules import fitting_config

        super().check_fit(latent_shape)
        motion = fitting_config(unet_on_meta(self.config.base), self.config.model, self.config.base)
        if motion.use_positions and latent_shape[0] > motion.max_frames:
            raise UserError(
                f"the dataset's clips have {latent_shape[0]} frames, the motion module's position table has "
                f"{motion.max_frames}: raise model.max_frames or ingest shorter clips"
            )


class MotionWeightsRecipe(MotionUNetRecipe):
    """Trains motion modules, or adapters on them, in a motion UNet."""

    @abstractmethod
    def trainable(self, motion: "MotionModules") -> "MotionModules | LowRankAdapters":
        """Return what is trained of the motion UNet's motion modules, or on them."""

    def attach(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "ClipModel":
        """Put motion modules into the base's UNet, the file's or fresh ones."""
        from animatediff.training.trained_model import ClipModel

        motion_unet = self.motion_unet(unet, with_weights=with_weights)
        return ClipModel(motion_unet, self.trainable(motion_unet.motion)).train()
