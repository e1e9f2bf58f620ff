"""What the project ships of the sprite world: a trained base, what animates it, and personalised files.

All is float16 and under 30 MB; `pipelines/configs/world` and the README say how it was made. A DreamBooth checkpoint is
as large as the base: `personalise.train_dreambooth` makes one in a minute or two.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
BASE = FOLDER / "base"
"""A diffusers folder; 64 x 64 pixels."""
MOTION_MODULE = FOLDER / "motion_module.safetensors"
"""v2's layout; trained on clips of 16 frames."""
FEW_STEP = FOLDER / "few_step.safetensors"
"""A MotionLoRA that makes the motion module one of five steps, the last three guided; `few_step.train` makes it."""
SPARSE_CONTROL = FOLDER / "sparse_control.safetensors"
"""A SparseCtrl encoder of pictures, beside the motion module; `train_sparse_control` makes it."""
CHALK_LORA = FOLDER / "chalk_style.safetensors"
"""A style, in kohya's layout."""
BROWN_EMBEDDING = FOLDER / "brown.safetensors"
"""A colour, as the word `scenes.world.NEW_COLOUR`."""
