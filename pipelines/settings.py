"""The configs of the jobs: what a run's YAML file and command line may say."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from animatediff.config import Config
from animatediff.data.captioning.config import CaptionConfig
from animatediff.data.clips.config import ClipConfig
from animatediff.data.curation.caption_parts import Recaption
from animatediff.data.curation.seal import StoredAs
from animatediff.data.curation.selection import SelectConfig
from animatediff.data.decoding.supervisor import DecodeConfig
from animatediff.data.ingest.rate import RateConfig
from animatediff.data.quarantine import Reason
from animatediff.data.shots.config import ScanLimits, ShotConfig
from animatediff.data.sources.spec import SourceConfig
from animatediff.rendering.formats import Format
from animatediff.training.config import TrainingConfig
from animatediff.uris import Uri

_Count = Annotated[int, Field(ge=1)]


class IngestConfig(Config):
    """Videos to latent shards."""

    source: SourceConfig
    output_uri: Uri
    """Folder of the dataset; a rerun with the same config continues it."""
    base: Uri
    """Stable Diffusion base whose VAE encodes: a diffusers folder, a URI, or a hub id."""
    clips: ClipConfig = ClipConfig()
    decode: DecodeConfig = DecodeConfig()
    scorers: tuple[str, ...] = ()
    """Scores of one's own beside the built-in ones: import paths of functions (frames, caption) -> numbers by name."""
    vae_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the VAE; auto is float16 on a GPU, float32 on a CPU, and float32 everywhere for an SDXL base, whose
    VAE overflows in float16 (unless its config says `force_upcast: false`, as that of the one that was mended does)."""
    clips_per_unit: int = Field(32, ge=1)
    """Clips that are encoded and committed together: what a kill costs at most, times the workers."""
    shard_mb: int = Field(384, ge=1)
    """Size of a sealed shard in MB; 256 to 512 reads well from object stores."""
    num_decoders: int | None = Field(None, ge=1)
    """Decoding actors, half a CPU each; default: one for every two CPUs, at least one."""
    num_scorers: int | None = Field(None, ge=1)
    """Actors for `scorers`, half a CPU each and no GPU; default: one for every two CPUs, as far as the others leave
    room, and at least one."""
    num_encoders: int | None = Field(None, ge=1)
    """VAE actors; default: one a GPU, or one a CPU, as each computes in one thread there."""
    use_gpu: bool | None = None
    """Encode on GPUs; default: where the cluster has any."""
    max_quarantine_rate: float = Field(0.5, ge=0, le=1)
    """The job fails, after writing everything, when a larger share of the videos is unusable."""
    retry_quarantined: tuple[Reason, ...] = ()
    """Quarantined videos with these reasons are planned anew, in further units."""
    max_outage_s: float = Field(120.0, ge=0)
    """Seconds that a worker waits for the videos' storage when it answers nothing, before the job ends. A worker's own
    machine may be cut off, which Ray finds out in less than a minute."""
    quarantine_unreachable: bool = False
    """Put aside as `fetch_error` what cannot be fetched even where its whole storage is away, instead of stopping: for
    one that is gone for good."""
    dry_run: bool = False
    """Tell what would be done, how large the result is and how long it takes, and write nothing."""
    rate: RateConfig = RateConfig()


class CurateRate(Config):
    """What a dry run reckons with."""

    pixels_per_s: float = Field(184e6, gt=0)
    """Pixels that one scan worker decodes and looks at in a second: 800 frames of 640 x 360, measured on one core."""
    num_workers: int = Field(1, ge=1)
    """Scan workers."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of one scan worker; without it no cost is told."""
    shot_s: float = Field(4.0, gt=0)
    """Seconds from one border to the next, as in films and anime."""
    selected: float = Field(0.4, gt=0, le=1)
    """Share of the shots that are selected: of an episode of 24 minutes 100 to 180 of about 350."""
    captions_per_s: float = Field(5.0, gt=0)
    """Shots that the server answers in a second; a guess for a model of 7 billion parameters on one GPU."""
    usd_per_1000_captions: float | None = Field(None, ge=0)
    """Price of what writes captions; without it no cost is told. A shot takes about 1,000 tokens."""


class CurateConfig(Config):
    """Raw videos to captioned shots."""

    source: SourceConfig
    """Videos of any length; captions that it has are not read."""
    output_uri: Uri
    """Folder of the collection, which is a source of ingest; a rerun with the same config continues it."""
    captions: CaptionConfig | None = None
    """Who writes the captions. Without it shots are only found and selected: look at the page, then name it and run the
    same command again."""
    shots: ShotConfig = ShotConfig()
    select: SelectConfig = SelectConfig()
    """May be changed later: nothing is scanned again, and only shots that are new are captioned."""
    scan: ScanLimits = ScanLimits()
    store: StoredAs = "copy"
    """`copy` keeps the selected shots' packets beside their captions, so that the source may go; `reference` keeps only
    where they lie in it."""
    recaption: Recaption = "no"
    """Which shots of a collection that is sealed are asked for again: those whose answer could not be used (`failed`),
    or `all`, as after a change of the model or the prompt."""
    videos_per_unit: int = Field(1, ge=1)
    """Videos that are scanned and committed together; raise it where they are minutes short and there are millions."""
    shard_mb: int = Field(256, ge=1)
    """Size of a sealed shard in MB."""
    num_scanners: int | None = Field(None, ge=1)
    """Scan workers, a CPU each; default: one for every CPU."""
    num_captioners: int | None = Field(None, ge=1)
    """Caption workers; default: one a GPU or CPU for a model that they run themselves, and up to eight for a server."""
    use_gpu: bool | None = None
    """Run models that write captions on GPUs; default: where the cluster has any."""
    max_quarantine_rate: float = Field(0.5, ge=0, le=1)
    """The job fails, after writing everything, when a larger share of the videos is unusable."""
    retry_quarantined: tuple[Reason, ...] = ()
    """Quarantined videos with these reasons are planned anew, in further units."""
    max_outage_s: float = Field(120.0, ge=0)
    """Seconds that a worker waits for the videos' storage when it answers nothing, before the job ends."""
    quarantine_unreachable: bool = False
    """Put aside as `fetch_error` what cannot be read even where its whole storage is away, instead of stopping."""
    dry_run: bool = False
    """Tell what would be done and how long it takes, and write nothing."""
    rate: CurateRate = CurateRate()


class ScalingConfig(Config):
    """What the training workers run on. It does not change what is trained."""

    num_workers: _Count | tuple[_Count, _Count] | None = None
    """A number, or the fewest and the most: the run then goes on with what the cluster has while machines come and
    go. Default: one a GPU, at most one a clip of the batch, or one on the CPU."""
    use_gpu: bool | None = None
    """Train on GPUs; default: where the cluster has any."""
    cpus_per_worker: float | None = Field(None, gt=0)
    """CPUs a worker reserves and computes with; default: one beside a GPU, else an equal share of its machine's."""
    max_failures: int = Field(2, ge=0)
    """Times that lost or failed workers are started anew from the last checkpoint before the job gives up."""

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The fewest and the most workers, if it is said."""
        number = self.num_workers
        return (number, number) if isinstance(number, int) else number

    @model_validator(mode="after")
    def _fewest_first(self) -> Self:
        if self.bounds and self.bounds[0] > self.bounds[1]:
            raise ValueError(f"scaling.num_workers {list(self.bounds)}: the fewest come first")
        return self


class SampleConfig(Config):
    """The clips that show what has been learned: at the end, and on the way where `every` says so.

    Those on the way are made by a task of their own from the checkpoint, while the workers train on.
    """

    prompts: tuple[str, ...] = ()
    """Default: the caption of one of the dataset's clips, a held-out one where there are any."""
    every: int = Field(0, ge=0)
    """Steps from one validation to the next, a multiple of `train.checkpoint_every`: clips, and with `train.holdout`
    the loss on held-out clips. One of several GPUs is then left for it, unless `scaling.num_workers` takes them all.
    0 makes the clips at the end only."""
    num_loss_clips: int = Field(64, ge=1)
    """Held-out clips that the loss is measured on, with noise and timesteps that are always the same."""
    seed: int = Field(0, ge=0)
    """Of the clips' noise."""
    num_inference_steps: int = Field(25, ge=1)
    """Denoising steps, the reference's 25."""
    guidance_scale: float = Field(8.0, ge=0)
    """Strength of the prompt, the reference's 8."""
    fps: float = Field(8.0, gt=0)
    """Frames per second of the written clips."""


class StepRate(Config):
    """What a dry run reckons with."""

    seconds_per_step: float | None = Field(None, gt=0)
    """Of all workers together, as a run's log or MLflow tells it. Default: the operations of a step, counted on the
    base's and the motion module's shapes, at an A100's 125 TFLOP/s a worker (half of it in float32): arithmetic, with
    no waiting for data or for each other."""
    num_workers: int = Field(1, ge=1)
    """Workers that train."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of one worker with its share of CPUs; without it no cost is told."""


class TrainJobConfig(TrainingConfig):
    """Latent shards to a motion module, a domain adapter or a MotionLoRA."""

    run_name: str
    """Name of the MLflow run."""
    output_uri: Uri
    """Folder of the run: checkpoints, the weights, sample clips. Rerunning with it continues the run."""
    num_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that are kept, beside the weights of the one with the best held-out loss."""
    registered_model: str | None = None
    """MLflow's registered model that the finished weights become a version of; default: named as the run."""
    allow_config_change: bool = False
    """Continue the run in `output_uri` even though fields that decide its result differ now."""
    scaling: ScalingConfig = ScalingConfig()
    sample: SampleConfig = SampleConfig()
    dry_run: bool = False
    """Check all that can be checked before workers start, tell what would be trained, and write nothing."""
    rate: StepRate = StepRate()

    @model_validator(mode="after")
    def _workers_suit(self) -> Self:
        fewest, most = self.scaling.bounds or (1, 1)
        if self.train.batch_size < most:
            raise ValueError(f"train.batch_size {self.train.batch_size} is less than scaling.num_workers {most}")
        if len(self.base_checkpoints) > fewest:
            raise ValueError(
                f"{len(self.base_checkpoints)} base_checkpoints need as many workers: raise scaling.num_workers"
            )
        if self.sample.every % self.train.checkpoint_every:
            raise ValueError(
                f"sample.every {self.sample.every} is no multiple of train.checkpoint_every "
                f"{self.train.checkpoint_every}: clips are made from checkpoints"
            )
        return self


class ScoreConfig(Config):
    """Rendered clips to scores."""

    output_uri: Uri
    """Folder that the animate job wrote to."""
    scorer: str
    """`package.module:function`, as `animatediff.rendering.scoring` describes it, importable on the workers."""
    again: bool = False
    """Score again what this scorer has scored already, because it measures something else now."""
    dry_run: bool = False
    """Tell how many clips would be scored, and score none."""


class RecycleConfig(Config):
    """When a worker process ends and a new one takes its place, against whatever a long run piles up in memory."""

    max_models: int | None = Field(None, ge=1)
    """After so many models; default: never."""
    max_memory_gb: float | None = Field(None, gt=0)
    """When it holds more of the machine's memory, in GB, between two slices; default: never."""


class RenderRate(Config):
    """What a dry run reckons with."""

    seconds_per_unit: float = Field(0.11, gt=0)
    """Of one worker, for a million pixels of one frame of Stable Diffusion 1.x at one step with guidance; without
    guidance it is half, of SDXL 1.8 times that. Seconds of finished items in the same output folder are taken instead
    where there are any. The default is an RTX 4090's: 2.17 steps a second for 16 frames of 512 x 512, as a user
    measured (Kosinkadink/ComfyUI-AnimateDiff-Evolved#146); an H100 at 40 % of its arithmetic would take a fifth of
    that."""
    num_workers: int = Field(1, ge=1)
    """Workers that render, one a GPU."""
    usd_per_hour: float | None = Field(None, ge=0)
    """Price of one worker with its share of CPUs; without it no cost is told."""


class AnimateConfig(Config):
    """A catalog to clips and a gallery."""

    catalog_uri: Uri
    """The catalog: a YAML file, or a table in CSV, TSV, JSONL or Parquet."""
    output_uri: Uri
    """Folder of the clips, the table and the gallery; a rerun renders what is not there or failed."""
    formats: tuple[Format, ...] = Field(("mp4", "gif"), min_length=1)
    """Files of each clip."""
    crf: int = Field(18, ge=0, le=51)
    """x264's quality of the MP4s: 0 is lossless, 18 looks like it, 51 is the worst. Clips that are there already keep
    theirs."""
    num_actors: int | None = Field(None, ge=1)
    """Workers; default: one a GPU, or one a CPU as far as the memory goes, as each computes in one thread there."""
    use_gpu: bool | None = None
    """Render on GPUs; default: where the cluster has any."""
    batch_size: int | None = Field(None, ge=1)
    """Most clips (or context windows) in one call of the UNet, halved when the memory does not suffice; default: 8 on
    a GPU, 1 on a CPU, where a batch is no faster."""
    recycle: RecycleConfig = RecycleConfig()
    dry_run: bool = False
    """Tell what would be rendered and how long it takes, and render nothing."""
    rate: RenderRate = RenderRate()
