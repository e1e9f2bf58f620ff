"""Typed configs: frozen pydantic models, read from YAML and the command line.

Precedence: the model's defaults < `--config FILE` < `--section.field value`.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import tyro
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from animatediff import storage
from animatediff.errors import UsageError, UserError


class Config(BaseModel):
    """Base of every config: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=Config)

_WORDS = {
    "dict_type": "a mapping is needed",
    "extra_forbidden": "there is no such field",
    "list_type": "a list is needed",
    "model_type": "a mapping is needed",
    "tuple_type": "a list is needed",
}

# libyaml's is ten times as fast, which a catalog of thousands of entries needs.
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SAFE_LOADER):
    """Refuses a key that is given twice in a mapping, of which YAML's own loader silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given more than once")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse(schema: type[ConfigT], argv: Sequence[str], *, default_uri: str | None = None) -> ConfigT:
    """Read a run's config from the command line.

    Args:
        schema: the config's class.
        argv: arguments without the program's name; `--config URI` names a YAML file.
        default_uri: the YAML file to start from when `--config` is absent.

    Raises:
        UsageError: an unreadable file, or an unknown field or a value out of range in it.
        SystemExit: `--help` (0); a flag that does not exist, or a value out of range (2).
    """
    config_uri, rest = _split_config_flag(list(argv))
    config_uri = config_uri or default_uri
    if not rest:
        return load(schema, config_uri) if config_uri else _validate(schema, {}, "defaults")
    default: Any = load(schema, config_uri) if config_uri else tyro.MISSING_NONPROP
    # An enum's members are named by their values, as in a file.
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues)
    return tyro.cli(schema, args=rest, default=default, config=markers)


def load(schema: type[ConfigT], uri: str) -> ConfigT:
    """Read a YAML file into `schema`.

    Raises:
        UsageError: the file is missing, is no YAML mapping, or does not fit the schema.
    """
    return _validate(schema, read_yaml(uri), uri)


def read_yaml(uri: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: the file is missing or holds something else.
    """
    try:
        content = yaml.load(storage.read_bytes(uri), _Loader)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {uri}") from error
    except UserError as error:
        raise UsageError(str(error)) from error
    except yaml.YAMLError as error:
        raise UsageError(f"{uri} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{uri} must hold a YAML mapping, not {type(content).__name__}")
    return content


def dump(config: Config) -> str:
    """The config as YAML, every field spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differing_fields(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two dumped configs, as `section.field: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_fields(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def _split_config_flag(argv: list[str]) -> tuple[str | None, list[str]]:
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
    return "; ".join(_describe_one(dict(item), schema, source) for item in error.errors())


def _describe_one(item: dict[str, Any], schema: type[BaseModel], source: str) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_beside(schema, item["loc"])
        return f"{source}: unknown field {path!r}, {name_hint(str(item['loc'][-1]), known)}"
    return f"{source}: {path + ': ' if path else ''}{describe_value(item)}"


def name_hint(name: str, known: Collection[str]) -> str:
    """What somebody may have meant who wrote a name that is not known."""
    ends_so = [each for each in known if each.endswith(f"_{name}")]
    # A typo first; then `steps` is `num_inference_steps`, and only after that like `seeds`.
    close = difflib.get_close_matches(name, known, 1, 0.8) or ends_so or difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"


def describe_value(item: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says of a value, in the words of files rather than Python's."""
    message = _WORDS.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    return message if item["type"] in ("missing", "value_error") else f"{message} (got {item['input']!r})"


def _fields_beside(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the fields that exist where `location`'s last part does not."""
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = schema.model_fields.get(part)
        model = next(_models_in(field.annotation), None) if field else None
        if model is None:
            return []
        schema = model
    return list(schema.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
