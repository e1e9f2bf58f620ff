"""One clip to render: the prompt, the seed and the settings, and what tells it from all others."""

from animatediff.rendering.catalog.entries import RenderSettings
from animatediff.rendering.catalog.prompts.prompt_text import PromptText, texts_by_frame


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
    prompt: PromptText
    seed: int

    @property
    def texts(self) -> tuple[str, ...]:
        """What the frames depend on: the texts of the prompt, and with guidance of the negative prompt."""
        prompts = (self.prompt, self.negative_prompt) if self.guidance_scale > 1 else (self.prompt,)
        return tuple(text for prompt in prompts for text in texts_by_frame(prompt).values())
