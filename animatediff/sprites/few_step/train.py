"""Distil the sprite world's motion module: `python -m animatediff.sprites.few_step.train --output FOLDER`.

What `pipelines/configs/world/distill.yaml` does in a job, in one process.
"""

from pathlib import Path

from animatediff.sprites import shipped
from animatediff.sprites.command import run
from animatediff.sprites.scenes.world import sample_scenes
from animatediff.sprites.train_sparse_control import train, write_clips
from animatediff.training.config import TrainingConfig
from animatediff.weights import motion_modules
from animatediff.weights.layouts.few_step import lora_metadata
from animatediff.weights.lora.difference import write_difference
from animatediff.weights.motion_file import TRAINED_FILE

_RANK = 32
"""Of the LoRA, in which the change of the smaller matrices is whole."""


def main(
    output: Path,
    base: Path = shipped.BASE,
    motion_module: Path = shipped.MOTION_MODULE,
    num_clips: int = 400,
    num_steps: int = 800,
    lr: float = 5e-4,
    seed: int = 0,
) -> None:
    """Draw clips, train on them, and write the few-step motion module, and as a MotionLoRA what makes it of the given.

    Run it again to go on after a kill.

    Args:
        output: folder for the data set, the last checkpoint and the weights files.
        base: the world's base.
        motion_module: the world's motion module, which is the teacher.
        num_clips: to train on.
        num_steps: optimizer steps.
        lr: learning rate.
        seed: of clips and draws.
    """
    dataset = output / "dataset"
    if not (dataset / "manifest.json").exists():
        write_clips(dataset, sample_scenes(num_clips, seed), str(base))
    train(
        TrainingConfig(
            recipe="distill",
            dataset_uri=str(dataset),
            base=str(base),
            model={"motion_module": str(motion_module)},
            distill={
                "sampler": "euler",
                "num_inference_steps": 5,
                "guidance_scale": 5.0,
                "teacher_steps": 10,
                "sampled_guidance": {"start": 0.4, "guidance_scale": 3.0},
            },
            objective={"fade_from": 750, "timestep_power": 1.5},
            optim={"lr": lr, "warmup_steps": 20, "decay_steps": num_steps // 2, "weight_decay": 0.0},
            train={
                "num_steps": num_steps,
                "batch_size": 4,
                "caption_dropout": 0.1,
                "ema_decay": 0.95,
                "seed": seed,
            },
        ),
        output,
    )
    trained = motion_modules.open_file(str(output / TRAINED_FILE))
    write_difference(
        str(output / shipped.FEW_STEP.name),
        trained.build(),
        motion_modules.read(str(motion_module)),
        rank=_RANK,
        metadata=lora_metadata(trained.few_step),
    )


if __name__ == "__main__":
    run(main)
