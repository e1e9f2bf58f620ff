"""The recipes by the names that configs choose them by: a new one is a file beside this and a row here."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from animatediff.errors import UserError
from animatediff.training.recipes.distill import distill_recipe
from animatediff.training.recipes.domain_adapter import DomainAdapterRecipe
from animatediff.training.recipes.finetune import finetune_recipe
from animatediff.training.recipes.motion_lora import MotionLoraRecipe
from animatediff.training.recipes.motion_module import MotionModuleRecipe
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.recipes.sparse_control import SparseControlRecipe
from animatediff.training.settings import RecipeConfig

RECIPES: Mapping[str, Callable[[RecipeConfig], Recipe]] = {
    "domain_adapter": DomainAdapterRecipe,
    "motion_module": MotionModuleRecipe,
    "motion_lora": MotionLoraRecipe,
    "finetune": finetune_recipe,
    "sparse_control": SparseControlRecipe,
    "distill": distill_recipe,
}

TRAINED_FILES = tuple(
    recipe.weights_file for recipe in RECIPES.values() if isinstance(recipe, type) and issubclass(recipe, Recipe)
)
"""Names of the files that recipes write; `finetune` and `distill` are of the other recipes and add none."""


def recipe_of(config: RecipeConfig) -> Recipe:
    """Return the recipe that a config names.

    Raises:
        UserError: there is none of this name.
    """
    if config.recipe not in RECIPES:
        raise UserError(f"recipe {config.recipe!r} is none of {', '.join(RECIPES)}")
    return RECIPES[config.recipe](config)


def _summary(recipe: Callable[[RecipeConfig], Recipe]) -> str:
    """Return the first paragraph of its docstring, on one line."""
    return " ".join(inspect.cleandoc(recipe.__doc__ or "").partition("\n\n")[0].split())


_SUMMARIES = " ".join(f"{name}: {_summary(recipe)}" for name, recipe in RECIPES.items())

if TYPE_CHECKING:
    RecipeName = str
else:
    RecipeName = Annotated[Literal[tuple(RECIPES)], Field(description=_SUMMARIES)]
