"""The picture of the READMEs, rendered with what is shipped: `python -m tests.readmes.picture`, in a minute on a CPU.

A row is a model, a column a prompt; all clips play together.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import Catalog, expand
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
_SIDE, _GAP, _LINE = 128, 8, 18  # pixels of a clip, between two, and of a row's name


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
    frames = np.stack([_sheet(list(rows), clips[:, :, index]) for index in range(clips.shape[2])])
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


def _sheet(names: list[str], pictures: np.ndarray) -> np.ndarray:
    """Return one frame of all clips, (h w 3) uint8: `pictures` (rows columns h w 3), each row below its name."""
    row_height, column_width = _LINE + _SIDE + _GAP, _SIDE + _GAP
    sheet = Image.new("RGB", (pictures.shape[1] * column_width - _GAP, len(names) * row_height - _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        pen.text((0, row * row_height), name, "black", font=ImageFont.load_default(13))
        for column, picture in enumerate(pictures[row]):
            clip = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            sheet.paste(clip, (column * column_width, row * row_height + _LINE))
    return np.asarray(sheet)


if __name__ == "__main__":
    main()
