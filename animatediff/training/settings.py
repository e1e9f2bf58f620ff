"""What a recipe may say of its model, objective and optimizer. Configs are read before torch is imported."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.models.config import MotionConfig, Version
from animatediff.uris import Uri


class AdapterFile(Config):
    """A domain adapter, and how much of it."""

    path: Uri | None = None
    """A weights file, local, at a URI, or MLflow's. Default: none."""
    scale: float = 1.0
    """1 is as trained."""


class ModelConfig(Config):
    """Which weights are trained, and what they start from."""

    version: Version | None = None
    """Published version whose shape fresh motion modules have; default: v3."""
    motion_module: Uri | None = None
    """Motion module to start from: a file at any URI, a run's folder, or `models:/` and `runs:/` of MLflow. It brings
    its own shape. Default: fresh ones, zero output."""
    num_heads: int | None = Field(None, ge=1)
    """Attention heads; default: the version's 8."""
    norm_num_groups: int | None = Field(None, ge=1)
    """Groups of the motion modules' norms; default: the base's own (32 in Stable Diffusion, as published)."""
    max_frames: int | None = Field(None, ge=1, le=4096)
    """Length of the position table; default: the version's (24 in v1, else 32)."""
    text_conditioned: bool = False
    """Let every temporal block attend to the caption as well, so that prompts can say how things move. Added to a
    `motion_module` that has no such attention, it changes nothing at first."""
    domain_adapter: AdapterFile = AdapterFile()
    """Adapter that is added to the frozen base while motion is trained, as for v3. At inference it is left out."""
    lora_rank: int | None = Field(None, ge=1)
    """Rank of the LoRA that is trained; default: the published 128 (domain_adapter) and 64 (motion_lora). In the
    recipe finetune, giving it is what makes it a LoRA."""

    @model_validator(mode="after")
    def _file_brings_its_shape(self) -> Self:
        shape = ("version", "num_heads", "norm_num_groups", "max_frames")
        given = [f"model.{name}" for name in shape if getattr(self, name) is not None]
        if self.motion_module is not None and given:
            raise ValueError(f"model.motion_module brings its own shape: leave out {', '.join(given)}")
        return self

    def motion_config(self, base_config: Mapping[str, Any]) -> MotionConfig:
        """Return the shape of fresh motion modules on a base.

        Args:
            base_config: the base UNet's config.
        """
        own = {"num_heads": self.num_heads, "max_frames": self.max_frames}
        own["norm_num_groups"] = self.norm_num_groups or base_config.get("norm_num_groups")
        own["text_width"] = base_config["cross_attention_dim"] if self.text_conditioned else None
        update = {name: value for name, value in own.items() if value is not None}
        return MotionConfig.for_version(self.version or "v3").model_copy(update=update)


class ObjectiveConfig(Config):
    """Departures from the reference's objective; by default there are none.

    What the model predicts is the noise schedule's to say, since sampling must know it too.
    """

    min_snr_gamma: float | None = Field(None, gt=0)
    """Weighs clips by the signal-to-noise ratio of their timesteps, cut off at this value (Hang et al.,
    arXiv 2303.09556, who use 5). With `zero_terminal_snr` the last timestep weighs nothing, so that the model does
    not learn what sampling begins with."""
    noise_offset: float = Field(0.0, ge=0)
    """Standard deviation of a constant that is added to the noise of each clip and channel, for darker and brighter
    clips (Guttenberg's offset noise, 2023, at 0.1). The prediction target contains it."""
    shared_noise: float = Field(0.0, ge=0, lt=1)
    """Share of the noise's variance that all frames of a clip have in common, also their correlation: the mixed noise
    of Ge et al., arXiv 2305.10474, whose a^2 / (1 + a^2) it is. Sampling still begins with independent frames."""
    fade_from: int | None = Field(None, ge=0)
    """Timestep from which on the model is given less and less of the clip, until at the end it is given noise alone,
    and is to find the clip by its caption and by what it has learned. Sampling begins so, but training does not: even
    at the last timesteps of a schedule short of zero terminal SNR a clip's motion can be read from 16 noisy frames, so
    that in sampling the noise decides it, and not the caption or a LoRA (Lin et al., arXiv 2305.08891, on brightness);
    and a single frame tells its part, so that frames do not learn to agree. Default: none."""
    timestep_power: float = Field(1.0, gt=0)
    """Timesteps are floor(T u^(1 / power)) for u uniform in [0, 1), so that the share of them below k is
    (k / T)^power: 1 is uniform, above 1 favours noisy timesteps, below 1 clean ones."""


class OptimConfig(Config):
    """The reference's optimizer, whose learning rate is constant."""

    lr: float = Field(1e-4, gt=0)
    """Learning rate."""
    warmup_steps: int = Field(0, ge=0)
    """First steps, over which the rate rises evenly to `lr`."""
    decay_steps: int = Field(0, ge=0)
    """Last steps, over which it falls to nothing. Raise `train.num_steps` before they begin, if at all."""
    decay: Literal["linear", "cosine"] = "linear"
    """How it falls: evenly, or along half a cosine."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the gradient's running mean and of its square's."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the update finite where gradients vanish."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """The gradient of all trained parameters together is shortened to this length."""
