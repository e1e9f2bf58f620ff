"""What a training run may set, section by section. Configs are read before torch is imported."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from animatediff.config import Config
from animatediff.data.scoring.columns import condition
from animatediff.diffusion.noise_schedule import NoiseSchedule, NoiseScheduleOverrides
from animatediff.errors import UserError
from animatediff.models.config import MotionConfig, Version
from animatediff.training.compute_settings import ComputeConfig
from animatediff.training.distill_settings import DistillConfig
from animatediff.uris import Uri

BASE_AS_IS = "base"
"""What stands for the base as it is among `RecipeConfig.base_checkpoints`."""


def _readable(where: str) -> str:
    if where:
        condition(where)
    return where


_Condition = Annotated[str, AfterValidator(_readable)]


class AdapterFile(Config):
    """A domain adapter, and how much of it."""

    path: Uri | None = None
    """A weights file, local, at a URI, or MLflow's. Default: none."""
    scale: float = 1.0
    """1 is as trained."""


class ModelConfig(Config):
    """Which weights are trained, and what they start from."""

    version: Version | None = None
    """Published version whose shape fresh motion modules have; default: v3, on an SDXL base sdxl (SDXL-beta)."""
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
    sparse_control: Uri | None = None
    """SparseCtrl encoder that the recipe sparse_control starts from. It brings its own shape. Default: a fresh one, its
    image layers the base's, its motion modules those of `motion_module` with the first of their attentions."""
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

    def fresh_version(self, base_config: Mapping[str, Any]) -> Version:
        """Return the published version whose shape fresh motion modules have on a base.

        Args:
            base_config: the base UNet's config.

        Raises:
            UserError: `version` is for SDXL and the base is none, or the other way round.
        """
        is_xl = base_config.get("addition_embed_type") == "text_time"
        suiting: tuple[Version, ...] = ("sdxl", "hotshotxl") if is_xl else ("v3", "v1", "v2", "animatelcm")
        if self.version is not None and self.version not in suiting:
            of_version, of_base = ("Stable Diffusion 1.x", "SDXL") if is_xl else ("SDXL", "Stable Diffusion 1.x")
            raise UserError(
                f"model.version {self.version} is a motion module for {of_version}, and the base is of {of_base}: take "
                f"one of {', '.join(suiting)}"
            )
        return self.version or suiting[0]

    def motion_config(self, base_config: Mapping[str, Any]) -> MotionConfig:
        """Return the shape of fresh motion modules on a base.

        Args:
            base_config: the base UNet's config.

        Raises:
            UserError: as `fresh_version` says.
        """
        own = {"num_heads": self.num_heads, "max_frames": self.max_frames}
        own["norm_num_groups"] = self.norm_num_groups or base_config.get("norm_num_groups")
        own["text_width"] = base_config["cross_attention_dim"] if self.text_conditioned else None
        update = {name: value for name, value in own.items() if value is not None}
        return MotionConfig.for_version(self.fresh_version(base_config)).model_copy(update=update)


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
    """Timestep from which on the model is given less and less of the clip, until at the last timestep it is given noise
    alone, as sampling begins. Without it, training never sees pure noise unless the schedule has zero terminal SNR.
    Even at the last timesteps 16 noisy frames then show a clip's motion, and the model learns to read it there, so that
    in sampling the noise decides the motion, and not the caption or a LoRA (Lin et al., arXiv 2305.08891, show it of
    brightness). Each single frame shows its part as well, so that frames do not learn to agree. Default: none."""
    timestep_power: float = Field(1.0, gt=0)
    """Timesteps are floor(T u^(1 / power)) for u uniform in [0, 1), so that the share of them below k is
    (k / T)^power: 1 is uniform, above 1 favours noisy timesteps, below 1 clean ones."""


class PicturesConfig(Config):
    """Of which frames the recipe sparse_control shows the pictures: a pattern for each clip, drawn by these weights."""

    first: float = Field(1.0, ge=0)
    """The first frame: pictures that are to move."""
    first_and_last: float = Field(1.0, ge=0)
    """The first and the last frame: what lies between two pictures."""
    random: float = Field(1.0, ge=0)
    """Any frames, from one to half of them: storyboards, and what was left out of a video."""
    prediction: float = Field(1.0, ge=0)
    """The beginning, from one frame to half of them: how a clip goes on."""

    @model_validator(mode="after")
    def _has_a_pattern(self) -> Self:
        if not any(self.model_dump().values()):
            raise ValueError("pictures: one of the patterns' weights must be above 0")
        return self


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


class MixConfig(Config):
    """A second dataset whose batches come among the first one's: what a module must not forget."""

    dataset_uri: Uri | None = None
    """Folder of a dataset that ingest has sealed, with the same VAE. Default: none, nothing is mixed in."""
    where: _Condition = ""
    """Which of its clips, as for the first dataset."""
    share: float = Field(0.25, gt=0, lt=1)
    """Share of the batches that are its, evenly spread."""


class TrainingLoopConfig(Config):
    """The training loop: how long, on what batches, how often it reports and saves.

    The defaults are the reference's, which trained 8 workers with 4 clips each.
    """

    num_steps: int = Field(10_000, ge=1)
    """Optimizer steps in all; a finished run goes on when this is raised."""
    batch_size: int = Field(32, ge=1)
    """Clips in a step, over all workers together."""
    seed: int = Field(42, ge=0)
    """Decides the fresh weights, the clips' order, and every draw of noise, timestep and dropout."""
    caption_dropout: float = Field(0.1, ge=0, le=1)
    """Share of the clips that train with the empty caption, for guidance at sampling."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the weights' moving average, which is then the result; 0, the reference's, keeps none. Until step n it
    is (1 + n) / (10 + n) at most, so that the first weights are soon forgotten."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of the videos, chosen by their ids, that is never trained on: `sample.every` measures the loss on it."""
    max_skipped_steps: int = Field(10, ge=0)
    """Steps in a row whose loss or gradient is not finite before the run stops. Each is skipped and counted."""
    log_every: int = Field(10, ge=1)
    """Steps from one line of metrics to the next."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps from one checkpoint to the next: what a kill costs at most, beside what is still being uploaded (two
    checkpoints at most). The last step always makes one."""


class TextConfig(Config):
    """How captions are read."""

    chunks: int = Field(1, ge=1, le=16)
    """Chunks of a caption: 75 tokens each for CLIP, which encodes each by itself; the model attends to all of them. 1
    cuts off what is longer than one, as the reference does. Every caption has this many, filled up with empty ones, and
    what is longer still is cut off: how many empty chunks a clip attends to changes its numbers, and with a number that
    followed from the captions of a batch its loss would depend on how the batch is shared out among workers and
    micro-batches. A chunk that would end between two commas ends at the comma before, as in rendering with
    `prompt_syntax: a1111`, which renders with prompts of any length."""
    shuffle_caption: bool = False
    """Put the tags of a caption into another order each time that it is trained on. Of curated shots the tags are
    known, and what else the caption says stays where it is; else they are what stands between commas. A sentence, with
    its full stop, stays as it is."""
    keep_tokens: int = Field(0, ge=0)
    """Tags from the first on that are neither moved nor left out, such as a name that triggers a style."""
    caption_tag_dropout_rate: float = Field(0.0, ge=0, le=1)
    """Share of a caption's tags that is left out, others each time."""

    @model_validator(mode="after")
    def _keeps_from_something(self) -> Self:
        if self.keep_tokens and not (self.shuffle_caption or self.caption_tag_dropout_rate):
            raise ValueError("keep_tokens means nothing without shuffle_caption or caption_tag_dropout_rate")
        return self


class RecipeConfig(Config):
    """All that a recipe is told: data, base, model, objective, optimizer, noise schedule, steps and seed.

    `config.TrainingConfig` is the same once the recipe that it names has agreed to it.
    """

    recipe: str = "motion_module"
    """A name in `recipes.table`."""
    dataset_uri: Uri
    """Folder of a dataset that ingest has sealed."""
    where: _Condition = ""
    """Which of its clips, by their scores: `motion > 0.02 and not duplicate`, or the presets `web` and `anime`.
    Default: all."""
    mix: MixConfig = MixConfig()
    """A second dataset against forgetting, such as the one that the motion module was trained on before."""
    base: Uri
    """Stable Diffusion base, frozen: a diffusers folder, a URI, or a hub id."""
    base_checkpoints: tuple[Uri, ...] = ()
    """Personalised checkpoints of the base to train on, worker r on number r modulo their number, so that the motion
    suits them all; `base` stands for the base as it is. Default: the base on all workers."""
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    pictures: PicturesConfig | None = None
    """What the recipe sparse_control shows of the clips; default: every pattern as often as any other."""
    distill: DistillConfig | None = None
    """How the recipe distill makes a motion module one of few steps; default: see `DistillConfig`."""
    optim: OptimConfig = OptimConfig()
    schedule: NoiseScheduleOverrides = NoiseScheduleOverrides()
    """Of the noise. What it leaves out is as the file of `model.motion_module` names it; else as the version was
    published with, for a base that predicts the velocity with that prediction type."""
    train: TrainingLoopConfig = TrainingLoopConfig()
    text: TextConfig = TextConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _fade_begins_on_a_timestep(self) -> Self:
        first, number = self.objective.fade_from, self.schedule.num_train_timesteps
        if self.model.motion_module is None:  # whose file says the rest
            number = self.schedule.apply_to(NoiseSchedule()).num_train_timesteps
        if first is not None and number is not None and first >= number:
            raise ValueError(f"objective.fade_from {first} is none of the {number} timesteps")
        return self
