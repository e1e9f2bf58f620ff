"""The config of a training run, checked against the recipe that it names."""

from typing import Self

from pydantic import model_validator

from animatediff.training.recipes.table import RecipeName, recipe_of
from animatediff.training.settings import RecipeConfig


class TrainingConfig(RecipeConfig):
    """What decides the weights that a run trains: the same config gives the same weights wherever it runs."""

    recipe: RecipeName = "motion_module"

    @model_validator(mode="after")
    def _suits_its_recipe(self) -> Self:
        recipe = recipe_of(self)
        if not recipe.shows_pictures and (self.pictures is not None or self.model.sparse_control is not None):
            raise ValueError(
                f"recipe {self.recipe} shows no pictures: leave out pictures and model.sparse_control, or choose "
                "recipe sparse_control"
            )
        if self.distill is not None and self.recipe != "distill":
            raise ValueError(f"recipe {self.recipe} distils nothing: leave out distill, or choose recipe distill")
        recipe.validate()
        return self
