"""SparseCtrl: an encoder that lets pictures of some frames decide what a clip shows (arXiv 2311.16933)."""

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from animatediff.errors import UserError, errors_with_field
from animatediff.training.recipes.motion_unet_recipe import MotionUNetRecipe
from animatediff.training.recipes.recipe import SamplingWeights

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
    from animatediff.training.step.draws import Draws
    from animatediff.training.trained_model import SparseControlModel, TrainedModel
    from animatediff.weights.controls.sparse_control_file import SparseControlFile


class SparseControlRecipe(MotionUNetRecipe):
    """A SparseCtrl encoder beside `model.motion_module`, for clips that begin, end or pass through given pictures.

    The pictures are frames of the clips themselves, as latents: the dataset needs nothing beside them.
    """

    weights_file = "sparse_control.safetensors"
    shows_pictures = True

    def validate(self) -> None:
        """Ask for a motion module, and refuse what is about training one."""
        self.require_motion_module()
        if self.config.model.text_conditioned or self.config.model.lora_rank is not None:
            raise ValueError(
                "recipe sparse_control trains an encoder beside a motion module that stays as it is: leave out "
                "model.text_conditioned and model.lora_rank"
            )

    def attach(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "SparseControlModel":
        """Put the motion module into the base's UNet, and an encoder beside it, the file's or a fresh one."""
        from animatediff.training.initial.sparse_control import fresh_sparse_control, sparse_control_on_meta
        from animatediff.training.trained_model import SparseControlModel

        if unet.config.addition_embed_type is not None:
            raise UserError(
                f"recipe sparse_control trains encoders for Stable Diffusion 1.x, as the published ones are, and base "
                f"{self.config.base} is an SDXL: take another recipe, or a base of 1.x"
            )
        motion_unet, file = self.motion_unet(unet, with_weights=with_weights), self._initial_file()
        if not with_weights:
            network = sparse_control_on_meta(motion_unet, file, self.config.base)
        elif file is not None:
            network = file.build(motion_unet.base.config, self.config.base)
        else:
            network = fresh_sparse_control(motion_unet, self.config.base)
        return SparseControlModel(motion_unet, network).train()

    def check_fit(self, latent_shape: tuple[int, int, int, int]) -> None:
        """Check too that the encoder fits the base, and the clips its position table."""
        from animatediff.training.frozen_base import unet_on_meta

        super().check_fit(latent_shape)
        motion = self.attach(unet_on_meta(self.config.base), with_weights=False).trainable.motion_config
        if latent_shape[0] > motion.max_frames:
            raise UserError(
                f"the dataset's clips have {latent_shape[0]} frames, the position table of model.sparse_control "
                f"{self.config.model.sparse_control} has {motion.max_frames}: ingest shorter clips"
            )

    def loss(
        self,
        predict: "NoisePredictor",
        latents: "Tensor",
        conditioning: "Conditioning",
        draws: "Draws",
        alphas_cumprod: "Tensor",
    ) -> "Tensor":
        """Return the losses of clips, (b), which are shown to the model at the frames that the draws have chosen."""
        import torch

        from animatediff.models.control.sparse_control import sparse_condition

        shown = [
            sparse_condition(clip[None, :, frames], frames, latents.shape[2])
            for clip, frames in zip(latents, draws.picture_frames, strict=True)
        ]
        with_pictures = partial(cast(Any, predict), pictures=torch.cat(shown).to(alphas_cumprod.device))
        return super().loss(with_pictures, latents, conditioning, draws, alphas_cumprod)

    def write(self, uri: str, model: "TrainedModel") -> None:
        """Write an encoder that says which noise schedule it was trained with."""
        from animatediff.weights.controls import sparse_control_file

        sparse_control_file.write(uri, model.trainable, schedule=self.noise_schedule.model_dump())

    def load_weights(self, uri: str, model: "TrainedModel") -> None:
        """Set the encoder to a file's of the same architecture."""
        from animatediff.weights.controls import sparse_control_file

        file = sparse_control_file.open_file(uri)
        base: Any = model.unet.base
        file.check_fits(base.config, self.config.base)
        model.trainable.load_state_dict(dict(file.state))

    def sampling_weights(self, weights_uri: str) -> SamplingWeights:
        """Return the encoder, and the motion module that it was trained beside."""
        return SamplingWeights(motion_module=self.config.model.motion_module, sparse_control=weights_uri)

    def _initial_file(self) -> "SparseControlFile | None":
        from animatediff.weights.controls import sparse_control_file

        uri = self.config.model.sparse_control
        if uri is None:
            return None
        with errors_with_field("model.sparse_control"):
            file = sparse_control_file.open_file(uri)
            if file.variant != "rgb":
                raise UserError(
                    f"{uri} is a SparseCtrl encoder of drawings, and a dataset's latents are coloured pictures"
                )
        return file
