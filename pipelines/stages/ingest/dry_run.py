"""A dry run of the ingest job: what it would do, how large the result is, how long it takes. Nothing is written."""

import logging
import math

from diffusers import AutoencoderKL

from animatediff import storage
from animatediff.data.ingest import parts
from animatediff.data.ingest.rate import usual_cpu_s
from animatediff.data.manifest import Manifest
from animatediff.models.operations import A100_FLOPS, encoder_operations
from animatediff.weights.base_configs import build_on_meta
from animatediff.weights.base_facts import config_name
from pipelines.settings import IngestConfig
from pipelines.stages.ingest.plan import IngestInputs, clips_per_video, extend_plan, log_left_out
from pipelines.stages.ingest.precision import vae_dtype
from pipelines.stages.ingest.watch import read_state
from pipelines.terminal.hours import cost, duration

logger = logging.getLogger(__name__)

_RATED_FRAMES, _RATED_SIDE = 16, 256  # of the clips that `RateConfig.clips_per_s` counts
_BYTES = 2  # a latent value is float16


def log_estimate(config: IngestConfig, inputs: IngestInputs, sealed_manifest: Manifest | None) -> None:
    """Log what the job would do.

    Args:
        config: the job's.
        inputs: its source and its VAE.
        sealed_manifest: the dataset so far.

    Raises:
        UserError: the source cannot be read, or the output holds another dataset's plan.
    """
    output_uri = storage.absolute(config.output_uri)
    units, rejected = extend_plan(config, inputs.videos, sealed_manifest, dataset_key=None)
    log_left_out(rejected, inputs.not_taken)
    done = parts.committed_unit_ids(output_uri)
    unsealed_units = units[sealed_manifest.num_units if sealed_manifest else 0 :]
    pending = [unit for unit in unsealed_units if unit.unit_id not in done]
    num_videos = sum(unit.num_videos for unit in pending)
    num_clips = num_videos * clips_per_video(config.clips)
    logger.info(
        "to encode: %d videos in %d units, %s %d clips of %s; %d units are done, %d videos would be set aside",
        num_videos,
        len(pending),
        "about" if config.clips.windows == "all" else "at most",
        num_clips,
        config.clips.bucket,
        len(units) - len(pending),
        len(rejected),
    )
    logger.info("latents: %s", _size(num_clips * _clip_bytes(config, inputs)))
    clips_per_s, operations = _speed(config, inputs)
    hours = num_clips / clips_per_s / 3600
    logger.info(
        "time: %s at %.3g clips/s (%.3g TFLOP each) on %d VAE workers%s; rate.* says what to reckon with",
        duration(hours),
        clips_per_s,
        operations / 1e12,
        config.rate.num_workers,
        cost(hours, config.rate.num_workers, config.rate.usd_per_hour),
    )
    _log_cpus(config, sealed_manifest, clips_per_s)


def _clip_bytes(config: IngestConfig, inputs: IngestInputs) -> int:
    clips = config.clips
    return _BYTES * math.prod(inputs.base_facts.latent_shape(clips.num_frames, height=clips.height, width=clips.width))


def _speed(config: IngestConfig, inputs: IngestInputs) -> tuple[float, float]:
    """Return how many clips all VAE workers encode in a second, and the operations of one."""
    rate, clips = config.rate, config.clips
    vae = build_on_meta(AutoencoderKL, inputs.vae.config, config_name(inputs.base_facts.base, "vae"))
    rated = _RATED_FRAMES * encoder_operations(vae, height=_RATED_SIDE, width=_RATED_SIDE)
    clip = clips.num_frames * encoder_operations(vae, height=clips.height, width=clips.width)
    is_half = vae_dtype(config, inputs.base_facts, use_gpu=True) != "float32"
    flops = A100_FLOPS if is_half else A100_FLOPS / 2
    return (rate.clips_per_s or flops / rated) * rate.num_workers * rated / clip, clip


def _log_cpus(config: IngestConfig, sealed_manifest: Manifest | None, clips_per_s: float) -> None:
    """Log how many CPUs keep the VAE workers busy."""
    given, measured = config.rate.cpu_s_per_clip, _measured_cpu_s(config, sealed_manifest)
    cpu_s = given or measured or usual_cpu_s(config.clips)
    source = "" if given else ", as the sealed ones took" if measured else ", rate.cpu_s_per_clip is a guess"
    per_worker = cpu_s * clips_per_s / config.rate.num_workers
    logger.info(
        "decoding: %.3g CPUs feed one VAE worker (%.3g s of a CPU for a clip%s), so num_decoders: %d",
        per_worker,
        cpu_s,
        source,
        math.ceil(per_worker * config.rate.num_workers),
    )


def _measured_cpu_s(config: IngestConfig, sealed_manifest: Manifest | None) -> float | None:
    """Return seconds that a decoder took for a clip of the dataset so far, fetching included; None where none is."""
    num_clips = sealed_manifest.num_clips if sealed_manifest else 0
    seconds = read_state(storage.absolute(config.output_uri)).decode_s
    return seconds / num_clips if seconds and num_clips else None


def _size(num_bytes: float) -> str:
    power = min(4, int(math.log(max(1.0, num_bytes), 1000)))
    return f"{num_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
