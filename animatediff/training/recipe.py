"""What decides the weights that a run trains: data, base, model, objective, optimizer, schedule and seed."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from animatediff.config import Config
from animatediff.data.scoring.scores import condition
from animatediff.diffusion.noise_schedule import GivenSchedule, NoiseSchedule
from animatediff.training.settings import ModelConfig, ObjectiveConfig, OptimConfig
from animatediff.uris import Uri

RecipeName = Literal["domain_adapter", "motion_module", "motion_lora", "finetune"]
Result = Literal["motion_module", "domain_adapter", "motion_lora"]

_NEEDS_MOTION_MODULE = ("motion_lora", "finetune")


def _readable(where: str) -> str:
    if where:
        condition(where)
    return where


_Condition = Annotated[str, AfterValidator(_readable)]


class MixConfig(Config):
    """A second dataset whose batches come among the first one's: what a module must not forget."""

    dataset_uri: Uri | None = None
    """Folder of a dataset that ingest has sealed, with the same VAE. Default: none, nothing is mixed in."""
    where: _Condition = ""
    """Which of its clips, as for the first dataset."""
    share: float = Field(0.25, gt=0, lt=1)
    """Share of the batches that are its, evenly spread."""


class StepConfig(Config):
    """How long and on what batches. The defaults are the reference's, which trained 8 workers with 4 clips each."""

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


class ComputeConfig(Config):
    """How a worker computes a step. It changes no more than the rounding, and may change while a run is continued."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the frozen weights and the matrix products; what is trained stays in float32. auto: bfloat16 on a GPU that
    has it, float16 with a loss scaler on one that has not, float32 on a CPU."""
    micro_batch_size: int | None = Field(None, ge=1)
    """Most clips that a worker computes at once; the gradients of its share of a batch are accumulated over as many
    passes as that takes. Default: the whole share at once."""
    activation_checkpointing: Literal["none", "motion", "all"] = "none"
    """What is computed again for the gradients instead of being kept in memory: nothing, the motion modules, or every
    unit of ResNet, attention and motion module."""
    compile: bool = False
    """Compile the model with `torch.compile`, which takes minutes at the start."""


class Recipe(Config):
    """Everything but the place where it happens; the same recipe gives the same weights."""

    recipe: RecipeName = "motion_module"
    """domain_adapter: LoRA on the base's attention, from single frames, which takes up what sets the videos apart from
    the base's pictures. motion_module: motion modules, on the base with or without that adapter. motion_lora: LoRA on
    the temporal attention of `model.motion_module`, for one kind of motion. finetune: `model.motion_module` itself,
    or with `model.lora_rank` a LoRA on it, on a new domain."""
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
    optim: OptimConfig = OptimConfig()
    schedule: GivenSchedule = GivenSchedule()
    """Of the noise. What it leaves out is as the file of `model.motion_module` names it, or as its version was
    published with; of fresh motion modules, the reference's."""
    train: StepConfig = StepConfig()
    compute: ComputeConfig = ComputeConfig()

    @model_validator(mode="after")
    def _model_suits_recipe(self) -> Self:
        model = self.model
        if self.recipe in _NEEDS_MOTION_MODULE and model.motion_module is None:
            raise ValueError(f"recipe {self.recipe} needs model.motion_module, the file to start from")
        if self.recipe == "motion_module" and model.lora_rank is not None:
            raise ValueError(
                "recipe motion_module trains whole motion modules: leave out model.lora_rank, or choose "
                "recipe finetune or motion_lora"
            )
        if self.recipe == "domain_adapter":
            fields = type(model).model_fields.keys() - {"lora_rank"}
            given = [name for name in fields if getattr(model, name) != getattr(ModelConfig(), name)]
            if given:
                names = ", ".join(f"model.{name}" for name in sorted(given))
                raise ValueError(f"recipe domain_adapter trains on single frames, without motion: leave out {names}")
            if self.compute.activation_checkpointing == "motion":
                raise ValueError("recipe domain_adapter has no motion modules: compute.activation_checkpointing all")
        first, number = self.objective.fade_from, self.schedule.num_train_timesteps
        if model.motion_module is None:  # whose file says the rest
            number = self.noise_schedule.num_train_timesteps
        if first is not None and number is not None and first >= number:
            raise ValueError(f"objective.fade_from {first} is none of the {number} timesteps")
        if self.result == "motion_lora" and model.text_conditioned:
            raise ValueError("a LoRA does not train the attention to captions that model.text_conditioned adds")
        return self

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The schedule of a recipe that `training.schedules.with_schedule` has completed."""
        return self.schedule.over(NoiseSchedule())

    @property
    def result(self) -> Result:
        """What kind of weights comes out."""
        if self.recipe == "domain_adapter":
            return "domain_adapter"
        is_lora = self.recipe == "motion_lora" or (self.recipe == "finetune" and self.model.lora_rank is not None)
        return "motion_lora" if is_lora else "motion_module"

    @property
    def result_file(self) -> str:
        """Name of the weights file in a run's folder and in its checkpoints."""
        return f"{self.result}.safetensors"
