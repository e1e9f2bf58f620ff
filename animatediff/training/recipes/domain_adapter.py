"""The domain adapter: stage 1 of AnimateDiff (paper, section 4.1)."""

from typing import TYPE_CHECKING

from animatediff.training.recipes.adapter_recipe import AdapterRecipe
from animatediff.training.recipes.recipe import SamplingWeights
from animatediff.training.settings import ModelConfig

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
    from animatediff.training.step.draws import Draws
    from animatediff.training.trained_model import ImageModel

_PUBLISHED_RANK = 128


class DomainAdapterRecipe(AdapterRecipe):
    """LoRA on the base's attention, from single frames, for what sets the videos apart from the base's pictures."""

    weights_file = "domain_adapter.safetensors"

    def validate(self) -> None:
        """Refuse the fields that are about motion."""
        model = self.config.model
        fields = type(model).model_fields.keys() - {"lora_rank"}
        given = [name for name in fields if getattr(model, name) != getattr(ModelConfig(), name)]
        if given:
            names = ", ".join(f"model.{name}" for name in sorted(given))
            raise ValueError(f"recipe domain_adapter trains on single frames, without motion: leave out {names}")
        if self.config.compute.activation_checkpointing == "motion":
            raise ValueError("recipe domain_adapter has no motion modules: compute.activation_checkpointing all")

    def attach(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "ImageModel":
        """Put fresh adapters on the base's attentions, of the published rank unless the config says otherwise."""
        from animatediff.models.lora import LowRankAdapters
        from animatediff.training.trained_model import ImageModel

        rank = self.config.model.lora_rank or _PUBLISHED_RANK
        return ImageModel(unet, LowRankAdapters.for_base(unet, rank)).train()

    def loss(
        self,
        predict: "NoisePredictor",
        latents: "Tensor",
        conditioning: "Conditioning",
        draws: "Draws",
        alphas_cumprod: "Tensor",
    ) -> "Tensor":
        """Return the losses of one frame a clip, (b), which the draws have chosen."""
        from animatediff.training.step.draws import take_single_frames

        frames, frame_draws = take_single_frames(latents, draws)
        return super().loss(predict, frames, conditioning, frame_draws, alphas_cumprod)

    def sampling_weights(self, weights_uri: str) -> SamplingWeights:
        """Return the adapter on the bare base, for single pictures."""
        return SamplingWeights(motion_module=None, domain_adapter=weights_uri, is_still=True)
