"""Where the image encoder of IP-Adapters lies: asked before anything that it needs is imported."""

from animatediff import storage
from animatediff.errors import UserError

_PLACES = ("image_encoder", "models/image_encoder")
"""Where it lies in a diffusers pipeline or in `models` of IP-Adapter's repository, and in the whole of that."""


def find_folder(uri: str) -> str:
    """Return the folder of the encoder itself.

    Args:
        uri: the folder of a CLIPVisionModelWithProjection (config.json, and model.safetensors or pytorch_model.bin), or
            one that has it in `image_encoder` or `models/image_encoder`, as IP-Adapter's repository.

    Raises:
        UserError: there is none.
    """
    for folder in (uri, *(storage.join(uri, place) for place in _PLACES)):
        if storage.exists(storage.join(folder, "config.json")):
            return folder
    raise UserError(f"{uri} has no image encoder: a folder with a config.json and a model.safetensors is needed")
