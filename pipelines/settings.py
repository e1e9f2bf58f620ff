"""The configs of the jobs: what a run's YAML file and command line may say."""

from typing import Literal

from pydantic import Field

from animatediff.config import Config
from animatediff.data.clips import ClipConfig


class SourceConfig(Config):
    """Where captioned videos come from."""

    uri: str
    """A WebVid CSV file, or a folder of videos with a `.txt` caption beside each."""
    videos_uri: str | None = None
    """Folder of the CSV's videos, as `{page_dir}/{videoid}.mp4` or flat; default: the folder `videos` beside the CSV."""


class IngestConfig(Config):
    """Videos to latent shards."""

    source: SourceConfig
    output_uri: str
    """Folder of the dataset; a rerun with the same config continues it."""
    base: str
    """Stable Diffusion base whose VAE encodes: a diffusers folder, a URI, or a hub id."""
    clips: ClipConfig = ClipConfig()
    vae_dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the VAE; auto is float16 on a GPU, float32 on a CPU."""
    clips_per_unit: int = Field(32, ge=1)
    """Clips that are encoded and committed together: what a kill costs at most, times the workers."""
    shard_mb: int = Field(384, ge=1)
    """Size of a sealed shard in MB; 256 to 512 reads well from object stores."""
    num_decoders: int | None = Field(None, ge=1)
    """Decoding actors, half a CPU each here; default: one for every two CPUs, at least one."""
    num_encoders: int | None = Field(None, ge=1)
    """VAE actors; default: one a GPU, or one on the CPU."""
    use_gpu: bool | None = None
    """Encode on GPUs; default: where the cluster has any."""
    max_quarantine_rate: float = Field(0.5, ge=0, le=1)
    """The job fails, after writing everything, when a larger share of the videos is unusable."""
