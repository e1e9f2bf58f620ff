"""Put a trained world where the project ships its own: `python -m animatediff.sprites.ship --world runs/world`."""

import logging
import shutil
from pathlib import Path

from animatediff.sprites import shipped
from animatediff.sprites.command import run
from animatediff.weights import motion_modules
from animatediff.weights.base_facts import BaseFacts
from animatediff.weights.controls import sparse_control_file

logger = logging.getLogger(__name__)


def main(world: Path, output: Path = shipped.FOLDER) -> None:
    """Copy the base, the motion module and the SparseCtrl encoder in float16, the LoRAs and the embedding.

    Args:
        world: folder with `base`, `finish/motion_module.safetensors`, `sparse_control/sparse_control.safetensors`,
            `few_step/few_step.safetensors` and `personalised`, as the README makes them.
        output: folder that `shipped` names; what is there is replaced.
    """
    shutil.copytree(world / "base", output / shipped.BASE.name, dirs_exist_ok=True)
    motion = motion_modules.open_file(str(world / "finish" / "motion_module.safetensors"))
    motion_modules.write(str(output / shipped.MOTION_MODULE.name), motion.build().half(), schedule=motion.schedule)
    encoder = sparse_control_file.open_file(str(world / "sparse_control" / shipped.SPARSE_CONTROL.name))
    network = encoder.build(BaseFacts(str(world / "base")).unet, str(world / "base")).half()
    sparse_control_file.write(str(output / shipped.SPARSE_CONTROL.name), network, schedule=encoder.schedule)
    shutil.copy(world / "few_step" / shipped.FEW_STEP.name, output / shipped.FEW_STEP.name)
    for path in (shipped.CHALK_LORA, shipped.BROWN_EMBEDDING):
        shutil.copy(world / "personalised" / path.name, output / path.name)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    logger.info("%s: %.1f MB", output, size / 1e6)


if __name__ == "__main__":
    run(main)
