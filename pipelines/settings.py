"""The configs of the jobs: what a run's YAML file and command line may say."""

from typing import Literal, Self

from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.data.clips import ClipConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.quarantine import Reason
from animatediff.data.sources.spec import SourceConfig
from animatediff.training.recipe import Recipe


class RateConfig(Config):
    """What a dry run reckons with."""

    clips_per_s: float = Field(28.0, gt=0)
    """Clips of 16 x 256 x 256 that one VAE worker encodes in a second, others by their pixels. The default is what an
    A100's 125 TFLOP/s at half precision give at 4.36 TFLOP a clip (arithmetic, not measured here)."""
    num_workers: int = Field(1, ge=1)
    """VAE workers."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of one VAE worker with its share of CPUs; without it no cost is told."""


class IngestConfig(Config):
    """Videos to latent shards."""

    source: SourceConfig
    output_uri: str
    """Folder of the dataset; a rerun with the same config continues it."""
    base: str
    """Stable Diffusion base whose VAE encodes: a diffusers folder, a URI, or a hub id."""
    clips: ClipConfig = ClipConfig()
    decode: DecodeConfig = DecodeConfig()
    scorers: tuple[str, ...] = ()
    """Scores of one's own beside the built-in ones: import paths of functions (frames, caption) -> numbers by name."""
    vae_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the VAE; auto is float16 on a GPU, float32 on a CPU."""
    clips_per_unit: int = Field(32, ge=1)
    """Clips that are encoded and committed together: what a kill costs at most, times the workers."""
    shard_mb: int = Field(384, ge=1)
    """Size of a sealed shard in MB; 256 to 512 reads well from object stores."""
    num_decoders: int | None = Field(None, ge=1)
    """Decoding actors, half a CPU each; default: one for every two CPUs, at least one."""
    num_encoders: int | None = Field(None, ge=1)
    """VAE actors; default: one a GPU, or one a CPU, as each computes in one thread there."""
    use_gpu: bool | None = None
    """Encode on GPUs; default: where the cluster has any."""
    max_quarantine_rate: float = Field(0.5, ge=0, le=1)
    """The job fails, after writing everything, when a larger share of the videos is unusable."""
    retry_quarantined: tuple[Reason, ...] = ()
    """Quarantined videos with these reasons are planned anew, in further units."""
    dry_run: bool = False
    """Tell what would be done, how large the result is and how long it takes, and write nothing."""
    rate: RateConfig = RateConfig()


class ScalingConfig(Config):
    """What the training workers run on. It does not change what is trained."""

    num_workers: int | None = Field(None, ge=1)
    """Default: one a GPU (as many as the batch divides among), or one on the CPU."""
    use_gpu: bool | None = None
    """Train on GPUs; default: where the cluster has any."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """CPUs a worker reserves and computes with; default: one beside a GPU, else an equal share of its machine's."""
    max_failures: int = Field(2, ge=0)
    """Times that lost or failed workers are started anew from the last checkpoint before the job gives up."""


class SampleConfig(Config):
    """The clip that is rendered with the new motion module when training ends."""

    prompt: str | None = None
    """Default: the caption of one of the dataset's clips."""
    seed: int = Field(0, ge=0)
    num_inference_steps: int = Field(25, ge=1)
    """Denoising steps, the reference's 25."""
    guidance_scale: float = Field(8.0, ge=0)
    """Strength of the prompt, the reference's 8."""
    fps: float = Field(8.0, gt=0)
    """Frames per second of the written clip."""


class TrainConfig(Recipe):
    """Latent shards to a motion module."""

    run_name: str
    """Name of the MLflow run."""
    output_uri: str
    """Folder of the run: checkpoints, the motion module, a sample. Rerunning with it continues the run."""
    num_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""
    scaling: ScalingConfig = ScalingConfig()
    sample: SampleConfig = SampleConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        num_workers = self.scaling.num_workers or 1
        if self.train.batch_size % num_workers:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} does not divide among scaling.num_workers {num_workers}"
            )
        return self


class ScoreConfig(Config):
    """Rendered clips to scores."""

    output_uri: str
    """Folder that the animate job wrote to."""
    scorer: str
    """`package.module:function`, as `animatediff.rendering.scoring` describes it, importable on the workers."""
    again: bool = False
    """Score again what this scorer has scored already, because it measures something else now."""


class AnimateConfig(Config):
    """A catalog to clips and a gallery."""

    catalog_uri: str
    """The catalog's YAML file."""
    output_uri: str
    """Folder of the clips, the table and the gallery; a rerun renders what is not there or failed."""
    num_actors: int | None = Field(None, ge=1)
    """Actors that render; default: one a GPU, or one on the CPU."""
    use_gpu: bool | None = None
    """Render on GPUs; default: where the cluster has any."""
