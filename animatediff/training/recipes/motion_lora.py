"""MotionLoRA: stage 3 of AnimateDiff (paper, section 4.3)."""

from typing import TYPE_CHECKING

from animatediff.training.recipes.adapter_recipe import AdapterRecipe
from animatediff.training.recipes.motion_unet_recipe import MotionWeightsRecipe
from animatediff.training.recipes.recipe import SamplingWeights

if TYPE_CHECKING:
    from animatediff.models.lora import LowRankAdapters
    from animatediff.models.motion_unet import MotionModules

_PUBLISHED_RANK = 64


class MotionLoraRecipe(AdapterRecipe, MotionWeightsRecipe):
    """LoRA on the temporal attention of `model.motion_module`, for one kind of motion."""

    weights_file = "motion_lora.safetensors"

    def validate(self) -> None:
        """Ask for a motion module, and refuse a new attention in it."""
        self.require_motion_module()
        if self.config.model.text_conditioned:
            raise ValueError("a LoRA does not train the attention to captions that model.text_conditioned adds")

    def trainable(self, motion: "MotionModules") -> "LowRankAdapters":
        """Return fresh adapters, of the published rank unless the config says otherwise."""
        from animatediff.models.lora import LowRankAdapters

        return LowRankAdapters.for_motion(motion, self.config.model.lora_rank or _PUBLISHED_RANK)

    def sampling_weights(self, weights_uri: str) -> SamplingWeights:
        """Return the motion module that it was trained on, and the LoRA."""
        return SamplingWeights(motion_module=self.config.model.motion_module, motion_loras=(weights_uri,))
