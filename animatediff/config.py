"""Typed configs: frozen pydantic models, read from YAML and the command line.

Precedence: the model's defaults < what `--config FILE` extends < the file < `--section.field value`.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from animatediff.config_problems import WORDS, told_once
from animatediff.errors import UsageError
from animatediff.uris import hide_secrets, printable_text
from animatediff.yaml_files import read_extended_yaml


class Config(BaseModel):
    """Base of every config: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Config)

_TYPO = 0.8  # similarity of two names from which on one is likely the other, written wrong
_MOST_MEANT = 3
_MOST_CHARACTERS = 200  # of a value that is told
_MOST_PROBLEMS = 20


def parse(
    schema: type[ConfigT],
    argv: Sequence[str],
    *,
    default_uri: str | None = None,
    others: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> ConfigT:
    """Read a run's config from the command line.

    Args:
        schema: the config's class.
        argv: arguments without the program's name; `--config URI` names a YAML file.
        default_uri: the YAML file to start from when `--config` is absent.
        others: fields of other files that may be named by mistake, by what to say of such a file.

    Raises:
        UsageError: an unreadable file, or an unknown field or a value out of range in it.
        SystemExit: `--help` (0); a flag that does not exist, or a value out of range (2).
    """
    config_uri, rest = split_config_flag(hide_in_arguments(argv))
    config_uri = config_uri or default_uri
    if not rest:
        return load(schema, config_uri, others=others) if config_uri else _validate(schema, {}, "defaults")
    default = load(schema, config_uri, others=others) if config_uri else None
    # An enum's members are named by their values, as in a file.
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
    parsed: ConfigT = tyro.cli(schema, args=rest, default=_with_sections(schema, default, rest), config=markers)
    return _only_given(parsed, default, rest)


def _with_sections(schema: type[BaseModel], content: BaseModel | None, argv: Sequence[str], above: str = "--") -> Any:
    """Return what tyro is to begin from: the content, and those sections that only a flag gives, or all for `--help`.

    Of a section that is None by default tyro has no flags.

    Args:
        schema: the config's class.
        content: what a file says; None where there is none.
        argv: the flags.
        above: what the flags of the schema's fields begin with.
    """
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        value = tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True)
        value = value if content is None else getattr(content, name)
        flags = f"{above}{name}.".replace("_", "-")
        section = next(_models_in(field.annotation), None) if type(None) in get_args(field.annotation) else None
        is_asked = not {"-h", "--help"}.isdisjoint(argv) or any(
            argument.replace("_", "-").startswith(flags) for argument in argv
        )
        if isinstance(value, BaseModel):
            value = _with_sections(type(value), value, argv, flags)
        elif value is None and section is not None and is_asked:
            value = _with_sections(section, None, argv, flags)
        values[name] = value
    return schema.model_construct(None if content is None else content.model_fields_set, **values)


def _only_given(parsed: ConfigT, default: ConfigT | None, argv: Sequence[str]) -> ConfigT:
    """Return the same config, in which no more is set than the file and the flags do; tyro sets every field."""
    content = default.model_dump(exclude_unset=True) if default is not None else {}
    for flag in (argument.partition("=")[0] for argument in argv if argument.startswith("--")):
        value: Any = parsed
        *above, name = flag.removeprefix("--").replace("-", "_").split(".")
        inside = content
        for part in above:
            value = getattr(value, part)
            if not isinstance(inside.get(part), dict):
                inside[part] = {}
            inside = inside[part]
        name = name if hasattr(value, name) else name.removeprefix("no_")  # `--no-flip`
        inside[name] = getattr(value, name)
    return type(parsed).model_validate(content)


def load(schema: type[ConfigT], uri: str, *, others: Mapping[str, Collection[str]] = MappingProxyType({})) -> ConfigT:
    """Read a YAML file, with what it extends, into `schema`; `others` are those of `parse`.

    Raises:
        UsageError: a file is missing, is no YAML mapping, or does not fit the schema.
    """
    content = read_extended_yaml(uri)
    num_known = {what: len(content.keys() & set(fields)) for what, fields in others.items()}
    likely = max(num_known, key=num_known.__getitem__, default=None)
    if likely is not None and num_known[likely] > len(content.keys() & schema.model_fields.keys()):
        raise UsageError(f"{uri} looks like {likely}")
    return _validate(schema, content, uri)


def hide_in_arguments(argv: Sequence[str]) -> list[str]:
    """Return a command line whose messages tell no secret of its URIs, and whose values are opened with them."""
    arguments: list[str] = []
    for argument in argv:
        flag, sign, value = argument.partition("=")
        if argument.startswith("--") and sign and hide_secrets(value) is not value:
            arguments += [flag, hide_secrets(value)]
        else:
            arguments.append(hide_secrets(argument))
    return arguments


def dump(config: Config) -> str:
    """Return the config as YAML, every field spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differing_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return what differs between two dumped configs, as `section.field: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def split_config_flag(argv: list[str]) -> tuple[str | None, list[str]]:
    """Return what `--config` names, None where it is absent, and the other arguments.

    Raises:
        UsageError: it names nothing.
    """
    for i, argument in enumerate(argv):
        if argument.startswith("--config="):
            return argument.removeprefix("--config="), argv[:i] + argv[i + 1 :]
        if argument == "--config":
            if i + 1 == len(argv):
                raise UsageError("--config needs a file: --config run.yaml")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
    return None, argv


def _validate(schema: type[ConfigT], content: dict[str, Any], source: str) -> ConfigT:
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise UsageError(_describe(error, schema, source)) from error


def _describe(error: ValidationError, schema: type[BaseModel], source: str) -> str:
    items = list(told_once(error.errors(), schema))
    unknown = [item["loc"] for item in items if item["type"] == "extra_forbidden"]
    meant = {place: names for place in unknown if (names := _meant(schema, place))}
    lines = [f"unknown field {_dotted(place)!r}, did you mean {_either(names)}?" for place, names in meant.items()]
    beside: dict[tuple[int | str, ...], list[str]] = {}
    for place in unknown:
        if place not in meant:
            beside.setdefault(place[:-1], []).append(_dotted(place))
    for above, names in beside.items():
        known, told = ", ".join(_fields_at(schema, above)), ", ".join(map(repr, names[:_MOST_PROBLEMS]))
        lines.append(f"unknown field{'s' if len(names) > 1 else ''} {told}, known here: {known}")
    suggested = {name for names in meant.values() for name in names}
    for item in items:
        path = _dotted(item["loc"])
        # A field that is missing only since its name is written wrong is told of once.
        if item["type"] != "extra_forbidden" and not (item["type"] == "missing" and path in suggested):
            lines.append(f"{path + ': ' if path else ''}{describe_value(dict(item))}")
    more = f"; and {len(lines) - _MOST_PROBLEMS} more" if len(lines) > _MOST_PROBLEMS else ""
    return f"{source}: {'; '.join(lines[:_MOST_PROBLEMS])}{more}"


def _dotted(place: tuple[int | str, ...]) -> str:
    return ".".join(map(str, place))


def _either(names: Collection[str]) -> str:
    return " or ".join(map(repr, names))


def _meant(schema: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Paths of the fields that somebody may have meant who wrote an unknown one at `place`."""
    *above, name = place
    beside = _fields_at(schema, tuple(above))
    if typo := difflib.get_close_matches(str(name), beside, 1, _TYPO):
        return [_dotted((*above, *typo))]
    if elsewhere := [path for path in _paths(schema) if path.rpartition(".")[2] == name]:
        return elsewhere[:_MOST_MEANT]
    close = _closest(str(name), beside)
    return [_dotted((*above, close))] if close else []


def _closest(name: str, known: Collection[str]) -> str | None:
    ends_so = [each for each in known if each.endswith(f"_{name}")]
    # A typo first; then `steps` is `num_inference_steps`, and only after that like `seeds`.
    close = difflib.get_close_matches(name, known, 1, _TYPO) or ends_so or difflib.get_close_matches(name, known, 1)
    return close[0] if close else None


def name_hint(name: str, known: Collection[str]) -> str:
    """Return what somebody may have meant who wrote a name that is not known."""
    close = _closest(name, known)
    return f"did you mean {close!r}?" if close else f"known here: {', '.join(known)}"


def describe_value(item: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors says of a value, in the words of files rather than Python's."""
    message = WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    return message if item["type"] in ("missing", "value_error") else f"{message} (got {_short(item['input'])})"


def first_problem(error: ValidationError) -> str:
    """Return the first of pydantic's errors as `describe_value` tells it, behind the path of its field."""
    item = error.errors()[0]
    path = _dotted(item["loc"])
    return f"{path + ': ' if path else ''}{describe_value(dict(item))}"


def _short(value: Any) -> str:
    text = printable_text(repr(value))  # first: what is cut would not be known for a URI
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _fields_at(schema: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Names of the fields of the mapping at `place`."""
    for part in place:
        if isinstance(part, int):
            continue
        field = schema.model_fields.get(part)
        model = next(_models_in(field.annotation), None) if field else None
        if model is None:
            return []
        schema = model
    return list(schema.model_fields)


def _paths(schema: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yield the dotted paths of all fields."""
    for name, field in schema.model_fields.items():
        yield f"{above}{name}"
        for model in _models_in(field.annotation):
            yield from _paths(model, f"{above}{name}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
