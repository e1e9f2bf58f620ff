"""Distillation: a motion module that needs few steps and little or no guidance (arXiv 2402.00769, 2405.18407).

The steps of `euler` are those of phased consistency models (Wang et al., arXiv 2405.18407): a consistency model from
each timestep that sampling goes through to the next. With `lcm` there is one phase, and it is LCM (arXiv 2310.04378).
"""

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from animatediff.errors import UserError
from animatediff.training.distill_settings import DistillConfig
from animatediff.training.recipes.motion_lora import MotionLoraRecipe
from animatediff.training.recipes.motion_module import MotionModuleRecipe
from animatediff.training.recipes.motion_unet_recipe import MotionWeightsRecipe
from animatediff.training.recipes.recipe import Recipe
from animatediff.training.settings import RecipeConfig
from animatediff.weights.layouts.few_step import FewStepSampling

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from torch import Tensor

    from animatediff.diffusion.conditioning import Conditioning, NoisePredictor
    from animatediff.training.step.draws import Draws
    from animatediff.training.trained_model import DistilledModel


def distill_recipe(config: RecipeConfig) -> Recipe:
    """Distil `model.motion_module` to few steps: all of it, or with `model.lora_rank` a LoRA on it.

    The teacher is the motion module itself with `distill.guidance_scale`, which is folded into the result but for the
    steps of `distill.sampled_guidance`. `train.ema_decay`, if any, is also the
    target's: 0.95 for whole motion modules.
    """
    return _DistilledLoraRecipe(config) if config.model.lora_rank is not None else _DistilledModuleRecipe(config)


class _DistillRecipe(MotionWeightsRecipe):
    loss_is_guided = True
    # The loss is of what remains between two guesses, and guidance and the way from noise multiply their rounding.
    # In the sprite world, after 100 steps alike but for it, 42 % of 12 clips moved as told, with float32 83 %.
    bears_bfloat16 = False

    @property
    def distill(self) -> DistillConfig:
        """How to distil."""
        return self.config.distill or DistillConfig()

    @property
    def few_step(self) -> FewStepSampling:
        """What the result is sampled with."""
        sampler, guidance = self.distill.sampler, self.distill.sampled_guidance
        return FewStepSampling(
            sampler=sampler,
            timestep_spacing="trailing" if sampler == "euler" else None,
            num_inference_steps=self.distill.num_inference_steps,
            guidance_scale=guidance.guidance_scale if guidance else 1.0,
            guidance_interval=guidance.interval if guidance else None,
        )

    def validate(self) -> None:
        """Ask for a motion module, and for a teacher whose steps are parts of the result's."""
        self.require_motion_module()
        if self.config.objective.min_snr_gamma is not None:
            raise ValueError("recipe distill has a loss of its own: leave out objective.min_snr_gamma")
        steps, teacher_steps = self.distill.num_inference_steps, self.distill.teacher_steps
        if self.distill.sampler == "euler" and teacher_steps % steps:
            raise ValueError(
                f"distill.teacher_steps {teacher_steps} must be a multiple of distill.num_inference_steps {steps}, "
                "since every step of the result stands for as many of the teacher's"
            )
        if self.distill.sampled_guidance is not None and not self.config.train.caption_dropout:
            raise ValueError(
                "distill.sampled_guidance needs train.caption_dropout, such as 0.1: guidance is away from the empty "
                "caption, which is not learned without"
            )
        if teacher_steps < steps:
            raise ValueError(f"distill.teacher_steps {teacher_steps} must not be fewer than the result's {steps}")

    def check_start(self) -> None:
        """Refuse a teacher that was distilled: it has not the steps, nor the guidance, that are asked of it."""
        if (few_step := self.few_step_start()) is not None:
            raise UserError(
                f"model.motion_module {self.config.model.motion_module} is itself distilled to few steps ({few_step}), "
                "and cannot teach any: name the motion module that it was distilled from"
            )

    def attach(self, unet: "UNet2DConditionModel", *, with_weights: bool) -> "DistilledModel":
        """Put the motion modules into the base's UNet, and keep what they predict at first as the teacher."""
        from animatediff.training.trained_model import DistilledModel

        self.check_start()
        motion_unet = self.motion_unet(unet, with_weights=with_weights)
        return DistilledModel(motion_unet, self.trainable(motion_unet.motion)).train()

    def loss(
        self,
        predict: "NoisePredictor",
        latents: "Tensor",
        conditioning: "Conditioning",
        draws: "Draws",
        alphas_cumprod: "Tensor",
    ) -> "Tensor":
        """Return the consistency losses of clips, (b)."""
        from animatediff.training.step.consistency_loss import ConsistencyLoss

        loss = ConsistencyLoss(alphas_cumprod, self.noise_schedule.prediction_type, self.config.objective, self.distill)
        teacher, target = (partial(cast(Any, predict), weights=weights) for weights in ("teacher", "target"))
        return loss(predict, teacher, target, latents, conditioning, draws)


class _DistilledModuleRecipe(_DistillRecipe, MotionModuleRecipe):
    pass


class _DistilledLoraRecipe(_DistillRecipe, MotionLoraRecipe):
    def validate(self) -> None:
        _DistillRecipe.validate(self)
        MotionLoraRecipe.validate(self)
