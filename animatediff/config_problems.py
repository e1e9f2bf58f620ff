"""What pydantic finds wrong with a config, in the words of files rather than Python's."""

from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

ErrorDetails: TypeAlias = Any
"""One of pydantic's errors, a mapping: its type has a name in pydantic's core alone."""

WORDS = {
    "dict_type": "a mapping is needed",
    "extra_forbidden": "there is no such field",
    "list_type": "a list is needed",
    "model_type": "a mapping is needed",
    "tuple_type": "a list is needed",
}
"""Messages by the kind of the problem, where pydantic's own will not do."""


def told_once(items: Iterable[ErrorDetails], schema: type[BaseModel]) -> Iterator[ErrorDetails]:
    """Yield pydantic's errors, those of all alternatives of a union as what is wrong with the value.

    That is what the first alternative of its kind says; where the value is of no such kind, which kinds there are.
    """
    unions: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for item in items:
        place = item["loc"]
        depth = _union_at(schema, place)
        if depth is None:
            yield item
        else:
            unions.setdefault(place[:depth], []).append(item)
    for place, found in unions.items():
        alternatives: dict[int | str, list[ErrorDetails]] = {}
        for item in found:
            alternatives.setdefault(item["loc"][len(place)], []).append(item)
        kinds = [errors[0] for errors in alternatives.values() if _is_of_other_kind(errors[0], place)]
        if len(kinds) == len(alternatives) > 1:
            either = " or ".join(dict.fromkeys(map(_kind_needed, kinds)))
            yield {"type": "union", "loc": place, "msg": f"{either} is needed", "input": kinds[0]["input"]}
        else:
            told = next(errors for errors in alternatives.values() if len(alternatives) == 1 or errors[0] not in kinds)
            for item in told:
                without_alternative = item.copy()
                without_alternative["loc"] = (*place, *item["loc"][len(place) + 1 :])
                yield without_alternative


def _union_at(annotation: Any, place: tuple[int | str, ...]) -> int | None:
    """Return how many parts of a place lead to a union; the next names one of its alternatives, in pydantic's words."""
    for depth, part in enumerate(place):
        known = [each for each in _alternatives(annotation) if each is not type(None)]
        if len(known) > 1:
            return depth
        if not known:
            return None
        annotation = known[0]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            annotation = field.annotation if field else None
        else:  # of a list or a mapping, the type of what is in it
            annotation = next((each for each in reversed(get_args(annotation)) if each is not Ellipsis), None)
        if annotation is None:
            return None
    return None


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for part in get_args(annotation) for each in _alternatives(part)]
    return [annotation]


def _is_of_other_kind(item: ErrorDetails, place: tuple[int | str, ...]) -> bool:
    return len(item["loc"]) == len(place) + 1 and item["type"].endswith(("_type", "_parsing"))


def _kind_needed(item: ErrorDetails) -> str:
    words = WORDS.get(item["type"], item["msg"])
    return words.removesuffix(" is needed").removeprefix("Input should be ").partition(",")[0]
