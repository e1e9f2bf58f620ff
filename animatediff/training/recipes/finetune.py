"""A trained motion module on a new domain: whole, or a LoRA on it."""

from animatediff.training.recipes.motion_lora import MotionLoraRecipe
from animatediff.training.recipes.motion_module import MotionModuleRecipe
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.settings import RecipeConfig


def finetune_recipe(config: RecipeConfig) -> Recipe:
    """Train `model.motion_module` itself, or with `model.lora_rank` a LoRA on it, on a new domain."""
    return MotionLoraRecipe(config) if config.model.lora_rank is not None else _FinetuneMotionModuleRecipe(config)


class _FinetuneMotionModuleRecipe(MotionModuleRecipe):
    def validate(self) -> None:
        self.require_motion_module()
