"""The picture of the READMEs, rendered with what is shipped: `python -m tests.readmes.picture`, in a minute on a CPU.

A row is a model, a column a prompt; all clips play together.
"""

import sys

import numpy as np

from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.clip_grid import ClipGrid
from animatediff.rendering.outputs import encode_webp
from animatediff.sprites import shipped
from tests.readmes.markdown import ROOT

PICTURE = ROOT / "animatediff/sprites/clips.webp"
_COLOURS = ("red", "blue", "yellow", "purple", "cyan")
_PROMPTS = (
    "a large {} star moving right on a black background",
    "a small {} circle bouncing on a white background",
    "a large {} heart growing on a dark blue background",
    "a small {} star moving down on a beige background",
    "a small {} triangle moving up on a gray background",
)


def main() -> None:
    """Write the picture."""
    prompts = [prompt.format(colour) for prompt, colour in zip(_PROMPTS, _COLOURS, strict=True)]
    brown = [prompt.format("<brown>") for prompt in _PROMPTS]
    rows = {
        "base": {"name": "base"},
        "with a style LoRA (chalk)": {"name": "lora", "loras": [str(shipped.CHALK_LORA)]},
        "with a textual inversion (brown)": {
            "name": "inversion",
            "embeddings": [str(shipped.BROWN_EMBEDDING)],
            "prompts": brown,
        },
    }
    catalog = Catalog.model_validate(
        {
            "base": str(shipped.BASE),
            "motion_module": str(shipped.MOTION_MODULE),
            "width": 64,
            "height": 64,
            "guidance_scale": 5.0,
            "prompts": prompts,
            "entries": list(rows.values()),
        }
    )
    clips = _render(catalog).reshape(len(rows), len(prompts), -1, 64, 64, 3)
    frames = ClipGrid(dict(zip(rows, clips, strict=True))).frames()
    PICTURE.write_bytes(encode_webp(frames, fps=8, quality=70))
    sys.stdout.write(f"wrote {PICTURE.relative_to(ROOT)}, {PICTURE.stat().st_size:,} bytes\n")


def _render(catalog: Catalog) -> np.ndarray:
    """Return the frames of all items in the catalog's order, (n f h w 3) uint8."""
    plan = expand(catalog)
    animator = Animator.for_model(next(iter(plan.models.values())), device="cpu")
    clips = []
    for item in plan.items:
        animator.load(plan.models[item.model])
        clips.append(animator.render(item))
    return np.stack(clips)


if __name__ == "__main__":
    main()
