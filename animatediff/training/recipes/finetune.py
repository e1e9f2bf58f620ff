"""A trained motion module on a new domain: whole, or a LoRA on it."""

from animatediff.training.recipes.motion_lora import MotionLora
from animatediff.training.recipes.motion_module import MotionModule
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.settings import RecipeConfig


def finetune(config: RecipeConfig) -> Recipe:
    """Train `model.motion_module` itself, or with `model.lora_rank` a LoRA on it, on a new domain."""
    return MotionLora(config) if config.model.lora_rank is not None else _WholeModule(config)


class _WholeModule(MotionModule):
    def validate(self) -> None:
        self.needs_motion_module()
