"""What decides a trained motion module: data, base, model, optimizer, schedule and seed."""

from pydantic import Field

from animatediff.config import Config
from animatediff.diffusion.schedule import NoiseSchedule
from animatediff.training.model import ModelConfig
from animatediff.training.optimizer import OptimConfig


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
    log_every: int = Field(10, ge=1)
    """Steps from one line of metrics to the next."""
    checkpoint_every: int = Field(500, ge=1)
    """Steps from one checkpoint to the next: what a kill costs at most. The last step always makes one."""


class Recipe(Config):
    """Everything but the place where it happens; the same recipe gives the same motion module."""

    dataset_uri: str
    """Folder of a dataset that ingest has sealed."""
    where: str = ""
    """Which of its clips, by their scores: `motion > 0.02 and not duplicate`, or the presets `web` and `anime`.
    Default: all."""
    base: str
    """Stable Diffusion base, frozen: a diffusers folder, a URI, or a hub id."""
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    schedule: NoiseSchedule = NoiseSchedule()
    train: StepConfig = StepConfig()
