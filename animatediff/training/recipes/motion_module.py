"""Motion modules, whole: stage 2 of AnimateDiff (paper, section 4.2)."""

import logging
from typing import TYPE_CHECKING

from animatediff.training.recipes.motion_unet_recipe import MotionWeightsRecipe
from animatediff.training.recipes.recipe import SamplingWeights

if TYPE_CHECKING:
    from animatediff.models.motion_unet import MotionModules
    from animatediff.training.trained_model import TrainedModel

logger = logging.getLogger(__name__)


class MotionModuleRecipe(MotionWeightsRecipe):
    """Whole motion modules, on the base with or without a domain adapter."""

    weights_file = "motion_module.safetensors"

    def validate(self) -> None:
        """Refuse the rank of a LoRA."""
        if self.config.model.lora_rank is not None:
            raise ValueError(
                "recipe motion_module trains whole motion modules: leave out model.lora_rank, or choose "
                "recipe finetune or motion_lora"
            )

    def check_start(self) -> None:
        """Warn of a start that was distilled: the result is not said to take few steps."""
        if (few_step := self.few_step_start()) is not None:
            logger.warning(
                "model.motion_module %s is distilled to few steps (%s), and what recipe %s makes of it is not said to "
                "be: start from the motion module that it was distilled from, and distil the result",
                *(self.config.model.motion_module, few_step, self.config.recipe),
            )

    def trainable(self, motion: "MotionModules") -> "MotionModules":
        """Return all of the motion modules."""
        return motion

    def write(self, uri: str, model: "TrainedModel") -> None:
        """Write a motion module that says which noise schedule it was trained with."""
        from animatediff.weights import motion_modules

        motion_modules.write(uri, model.trainable, schedule=self.noise_schedule.model_dump(), few_step=self.few_step)

    def load_weights(self, uri: str, model: "TrainedModel") -> None:
        """Set the motion modules to a file's of the same architecture."""
        from animatediff.weights import motion_modules

        model.trainable.load_state_dict(motion_modules.read(uri).state_dict())

    def sampling_weights(self, weights_uri: str) -> SamplingWeights:
        """Return the trained motion module alone: a domain adapter is left out of what is sampled."""
        return SamplingWeights(motion_module=weights_uri)
