"""What libraries say when they fail, as text that is the same from run to run."""

import re

_NO_MEMORY = ("Cannot allocate memory", "bad_alloc", "Memory allocation")


def reproducible_reason(error: BaseException | str) -> str:
    """Return the first line of an error's text, without the clock times and addresses that differ from run to run."""
    text = str(getattr(error, "strerror", "") or error).strip()
    text = re.sub(r"\[\d\d:\d\d:\d\d\] ?| @ 0x[0-9a-f]+", "", text)
    return text.splitlines()[0][:200] if text else type(error).__name__


def is_memory_error(error: Exception | str) -> bool:
    """Whether memory was refused: native libraries say so only in the text of their errors, or as they die."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _NO_MEMORY)
