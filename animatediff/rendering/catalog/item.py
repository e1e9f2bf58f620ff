"""One clip to render: the prompt, the seed and the settings, and what tells it from all others."""

from animatediff.rendering.catalog.entries import RenderSettings


class Item(RenderSettings):
    """One clip to render."""

    digest: str
    """SHA-256 over everything that decides the pixels: equal digests are rendered once."""
    entry: str
    """The entry's name."""
    model: str
    """Digest of the model: SHA-256 over what decides its weights. Items of equal ones are rendered together. Named as
    the column of the table of results that it is."""
    priority: int = 0
    prompt: str
    seed: int
