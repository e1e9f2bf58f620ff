"""What keeps a prompt from being rendered as it is written."""

from collections.abc import Iterator

from animatediff.rendering.catalog.prompts import prompt_syntax
from animatediff.rendering.catalog.prompts.prompt_text import PromptSyntax, texts_by_frame


def prompt_problems(prompt: str, *, syntax: PromptSyntax, num_frames: int) -> Iterator[str]:
    """Yield a line for each thing to change.

    Args:
        prompt: a text, or texts by frame.
        syntax: how it is read.
        num_frames: of the clip.
    """
    texts = texts_by_frame(prompt)
    for frame in texts:
        if frame >= num_frames:
            last = f"the last of the clip's {num_frames} frames is {num_frames - 1}"
            yield f"prompt {prompt!r} is for frame {frame}, and {last}: name earlier frames, or raise num_frames"
            break
    if syntax == "a1111":
        yield from (told for text in dict.fromkeys(texts.values()) if (told := prompt_syntax.refusal(text)))
