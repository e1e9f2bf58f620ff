"""How a caption and tags become the text that is trained on: `my style, {tags:5}, {caption}`."""

import re
from collections.abc import Sequence

_FIELD = re.compile(r"\{(?P<name>[^{}:]*)(?::(?P<most>[^{}]*))?\}")
_NOTHING, _CAPTION_END = "\0", "\1"
# What separates a field that is empty from its neighbours goes with it.
_SAYS_NOTHING = rf"[\s,;:|.]*{_NOTHING}[\s,;:|.{_NOTHING}]*"
_NOTHING_IN_BRACKETS = re.compile(rf"\({_SAYS_NOTHING}(?::[\d.]+)?\)|\[{_SAYS_NOTHING}\]")
_NOTHING_AND_AFTER = re.compile(rf"{_NOTHING}[\s,;:|.]*")
_BEFORE_NOTHING_AT_END = re.compile(rf"[\s,;:|]*{_NOTHING}[\s,;:|]*$")
_STOPS_BEFORE_ANOTHER = re.compile(rf"[\s,;.]*{_CAPTION_END}(?=\s*[,;.])")


def check_template(template: str) -> None:
    """Refuse what `fill_template` could not fill.

    Raises:
        ValueError: an unknown field, a number of tags that is none, a lone brace, or no field at all.
    """
    fields = list(_FIELD.finditer(template))
    for field in fields:
        name, most = field["name"], field["most"]
        if name not in ("caption", "tags"):
            raise ValueError(f"template has {field[0]}: there are {{caption}}, {{tags}} and {{tags:5}}, the first five")
        if most is not None and (name != "tags" or not most.isdecimal() or int(most) < 1):
            raise ValueError(f"template has {field[0]}: a number of tags is written {{tags:5}}")
    if "{" in (rest := _FIELD.sub("", template)) or "}" in rest:
        raise ValueError("template has a lone brace: fields are {caption}, {tags} and {tags:5}")
    if not fields:
        raise ValueError("template names neither {caption} nor {tags}: every shot would have the same text")


def names_in(template: str) -> set[str]:
    """Return the names of a template's fields."""
    return {field["name"] for field in _FIELD.finditer(template)}


def fill_template(template: str, caption: str, tags: Sequence[str]) -> str:
    """Return the text of a shot, empty where no field has a value.

    A field that is empty leaves neither a separator nor brackets without a word behind.

    Args:
        template: one that `check_template` takes.
        caption: one sentence or more, empty for none. Its full stop goes where a comma or another one follows.
        tags: the most important first; those without a word count for nothing.
    """
    said = [tag.strip() for tag in tags if tag.strip()]

    def value(field: re.Match[str]) -> str:
        if field["name"] == "tags":
            return ", ".join(said[: int(field["most"])] if field["most"] else said) or _NOTHING
        return caption + _CAPTION_END if caption else _NOTHING

    if not any(value(field) != _NOTHING for field in _FIELD.finditer(template)):
        return ""
    text, number = _FIELD.sub(value, template), 1
    while number:  # brackets in brackets
        text, number = _NOTHING_IN_BRACKETS.subn(_without_brackets, text)
    text = _BEFORE_NOTHING_AT_END.sub("", text)
    text = _STOPS_BEFORE_ANOTHER.sub("", _NOTHING_AND_AFTER.sub("", text))
    return text.replace(_CAPTION_END, "").strip()


def _without_brackets(found: re.Match[str]) -> str:
    is_behind_word = found.string[: found.start()][-1:].isalnum()
    return f" {_NOTHING}" if is_behind_word else _NOTHING
