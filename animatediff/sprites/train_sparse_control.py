"""Train the sprite world's SparseCtrl encoder: `python -m animatediff.sprites.train_sparse_control --output FOLDER`.

What `pipelines/configs/world` does in jobs, in one process: clips to latents, and the recipe sparse_control on them.
"""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch

from animatediff import storage
from animatediff.data.manifest import Manifest, Shard, write_manifest
from animatediff.data.shards import ROW_GROUP_ROWS, SCHEMA, row_group_rows, sha256, to_parquet
from animatediff.models.vae import encode_frames, fingerprint
from animatediff.sprites import shipped
from animatediff.sprites.command import run
from animatediff.sprites.scenes.drawing import SAMPLE_SIZE, render
from animatediff.sprites.scenes.world import Scene, caption, sample_scenes
from animatediff.training.config import TrainingConfig
from animatediff.training.trainer import Trainer
from animatediff.weights.base import load_vae
from animatediff.weights.base_facts import BaseFacts

logger = logging.getLogger(__name__)

NUM_FRAMES = 16
"""Of a clip, as the motion module was trained with."""
_BUCKET = f"{NUM_FRAMES}x{SAMPLE_SIZE}x{SAMPLE_SIZE}"
_CHECKPOINT_EVERY, _LOG_EVERY = 100, 20


def main(
    output: Path,
    base: Path = shipped.BASE,
    motion_module: Path = shipped.MOTION_MODULE,
    num_clips: int = 2_000,
    num_steps: int = 1_800,
    seed: int = 0,
) -> None:
    """Draw clips, train on them, and write `sparse_control.safetensors`.

    Run it again to go on after a kill.

    Args:
        output: folder for the data set, the last checkpoint and the encoder.
        base: the world's base.
        motion_module: the world's motion module, which stays as it is.
        num_clips: to train on.
        num_steps: optimizer steps.
        seed: of clips, weights and draws.
    """
    if not (output / "dataset" / "manifest.json").exists():
        write_clips(output / "dataset", sample_scenes(num_clips, seed), str(base))
    train(_config(output, base, motion_module, num_steps, seed), output)


def train(config: TrainingConfig, output: Path) -> None:
    """Train what a config says, and write its weights file; go on from the last checkpoint where there is one.

    Args:
        config: of the run.
        output: folder for the last checkpoint and the weights file.
    """
    trainer, num_steps = Trainer(config, device=torch.device("cpu")), config.train.num_steps
    checkpoint = output / "checkpoint"
    start = trainer.load(checkpoint) if checkpoint.exists() else 0
    losses = []
    for done, result in trainer.steps(start):
        losses.append(float(result.loss_sums[0].sum() / result.loss_sums[1].sum()))
        if done % _LOG_EVERY == 0:
            logger.info("step %d/%d loss %.5f", done, num_steps, sum(losses[-_LOG_EVERY:]) / len(losses[-_LOG_EVERY:]))
        if done % _CHECKPOINT_EVERY == 0 or done == num_steps:
            _save(trainer, checkpoint, done)
    trainer.write_weights(str(output / trainer.recipe.weights_file))


def write_clips(folder: Path, scenes: Sequence[Scene], base: str) -> None:
    """Write a data set of whole clips, one a scene, as ingest would of their videos.

    Args:
        folder: of the data set.
        scenes: of the clips.
        base: whose VAE encodes them.
    """
    facts, vae = BaseFacts(base), load_vae(base).eval()
    encoder = fingerprint(vae, "float32")
    shards = []
    for number, first in enumerate(range(0, len(scenes), ROW_GROUP_ROWS)):
        rows = []
        for index, scene in enumerate(scenes[first : first + ROW_GROUP_ROWS], start=first):
            frames = render(scene, num_frames=NUM_FRAMES, height=SAMPLE_SIZE, width=SAMPLE_SIZE)
            latent = encode_frames(vae, frames)
            rows.append(
                dict.fromkeys(SCHEMA.names)
                | {"clip_id": f"{index:06d}", "video_id": f"{index:06d}", "bucket": _BUCKET, "caption": caption(scene)}
                | {"latent": latent.tobytes(), "latent_shape": list(latent.shape), "latent_dtype": "float16"}
            )
        data = to_parquet(pa.Table.from_pylist(rows, schema=SCHEMA), {})
        shard = Shard(
            path=f"bucket={_BUCKET}/shard-{number:05d}.parquet",
            bucket=_BUCKET,
            num_clips=len(rows),
            num_videos=len(rows),
            row_group_rows=row_group_rows(data),
            num_bytes=len(data),
            sha256=sha256(data),
        )
        storage.write_bytes(str(folder / shard.path), data)
        shards.append(shard)
    write_manifest(
        str(folder),
        Manifest(
            dataset_key=hashlib.sha256(repr((scenes, encoder)).encode()).hexdigest(),
            encoder_fp=encoder,
            scaling_factor=facts.scaling_factor,
            latent_channels=facts.latent_channels,
            latent_factor=facts.latent_factor,
            num_units=1,
            num_videos=len(scenes),
            num_clips=len(scenes),
            quarantined={},
            shards=shards,
        ),
    )


def _config(output: Path, base: Path, motion_module: Path, num_steps: int, seed: int) -> TrainingConfig:
    """Return the run of `pipelines/configs/world/sparse_control.yaml`, whose comments say why it is so."""
    return TrainingConfig(
        recipe="sparse_control",
        dataset_uri=str(output / "dataset"),
        base=str(base),
        model={"motion_module": str(motion_module)},
        pictures={"first": 2, "first_and_last": 2, "random": 1, "prediction": 1},
        objective={"fade_from": 750, "timestep_power": 2, "min_snr_gamma": 1.0},
        optim={"lr": 1e-3, "eps": 1e-9, "warmup_steps": 50, "decay_steps": num_steps // 2},
        train={"num_steps": num_steps, "batch_size": 4, "ema_decay": 0.995, "seed": seed},
    )


def _save(trainer: Trainer, checkpoint: Path, step: int) -> None:
    """Replace the checkpoint by one that is whole."""
    draft = checkpoint.with_name(f"{checkpoint.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    trainer.save(draft, step=step)
    shutil.rmtree(checkpoint, ignore_errors=True)
    draft.rename(checkpoint)


if __name__ == "__main__":
    run(main)
