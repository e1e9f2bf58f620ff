"""What the recipes that train low-rank adapters have in common: the weights file."""

from typing import TYPE_CHECKING

from animatediff.training.recipes.recipe import Recipe
from animatediff.weights.layouts.few_step import lora_metadata

if TYPE_CHECKING:
    from animatediff.training.trained_model import TrainedModel


class AdapterRecipe(Recipe):
    """Trains `LowRankAdapters`, written as a MotionLoRA on motion modules, as a domain adapter on the UNet."""

    def write(self, uri: str, model: "TrainedModel") -> None:
        """Write the adapters as a published MotionLoRA or domain adapter."""
        from animatediff.weights import adapters

        adapters.write(uri, model.trainable, metadata=lora_metadata(self.few_step))

    def load_weights(self, uri: str, model: "TrainedModel") -> None:
        """Set the adapters to a file's, which is of their rank and changes the same matrices."""
        from animatediff.weights import adapters

        adapters.read_into(uri, model.trainable, model.adapted_module)
