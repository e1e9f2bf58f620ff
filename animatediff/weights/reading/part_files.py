"""What diffusers and transformers call a part's weights files, and which are there: one, or an index's shards."""

from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.reading.files import read_json

_MAX_INDEX_BYTES = 16 << 20  # of the largest models some 200 KB

MODEL_FILES = tuple(
    f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
)
"""What diffusers calls the weights of a model that is one file, the preferred first."""

WEIGHTS_FILES = [
    stem + ending
    for ending in (
        ".safetensors",
        ".safetensors.index.json",
        ".fp16.safetensors",
        ".safetensors.index.fp16.json",
        ".bin",
        ".bin.index.json",
        ".fp16.bin",
        ".bin.index.fp16.json",
    )
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
]
"""What diffusers and transformers call their weights files, the preferred first. Half precision comes last of its kind:
where both are there, it is the copy."""


def weights_files(folder: Path) -> list[Path]:
    """Return the files of one part: one, or all that an index names; none where there are no weights.

    Raises:
        UserError: the index cannot be read, leads out of its folder, or names what is not there.
    """
    file = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if file is None or file.suffix != ".json":
        return [file] if file else []
    index = read_json(file, str(file), max_bytes=_MAX_INDEX_BYTES)
    try:
        names = sorted(set(index["weight_map"].values()))
        shards = [file.with_name(name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no index of weights files") from error
    for shard in shards:
        if not shard.is_file():
            raise UserError(f"{file}: weight_map names {shard.name[:100]!r}, which is no file beside it")
    return shards
