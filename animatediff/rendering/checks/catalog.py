"""What can be found wrong with a catalog before anything is rendered."""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, combinations
from typing import Any, NamedTuple

from animatediff.errors import UserError
from animatediff.models.prompts import a1111_syntax
from animatediff.models.prompts.pieces import joined
from animatediff.models.prompts.words import uses
from animatediff.rendering.catalog.catalog import Catalog, EntryIndex, settings_of_prompt
from animatediff.rendering.catalog.condition_files import ConditionFile, condition_files
from animatediff.rendering.catalog.entries import ComputeSettings, Entry, ModelFiles, SeededRenderSettings
from animatediff.rendering.catalog.model_identity import token_of
from animatediff.rendering.catalog.named_files import named_files
from animatediff.rendering.catalog.presets import PresetName
from animatediff.rendering.catalog.prompts.prompt_problems import prompt_problems
from animatediff.rendering.catalog.prompts.prompt_text import texts_by_frame
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.checks import contradictions, controls
from animatediff.rendering.checks.controls import ControlChecks
from animatediff.rendering.checks.few_step import set_by_files
from animatediff.rendering.checks.files import check_conditions, check_files, files_in_fields
from animatediff.rendering.checks.models import CHECKED_SETTINGS, ModelChecks
from animatediff.rendering.checks.predictions import read_predictions
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS

logger = logging.getLogger(__name__)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_TOLD = 20  # problems in a message
_MAX_NAMED = 3  # entries of one problem
_PROMPT_CHARS = 40
_CHECKED_SETTINGS = frozenset({"preset", *CHECKED_SETTINGS, *contradictions.FIELDS, *controls.FIELDS})


def read(uri: str) -> Catalog:
    """Read a catalog of which every entry is needed.

    Raises:
        UsageError: the file is missing or does not fit the schema.
        UserError: an entry has a problem.
    """
    catalog = set_by_files(catalog_files.read(uri))
    if problems := check(catalog):
        raise UserError(report(problems, catalog))
    return catalog


def check(catalog: Catalog) -> dict[EntryIndex, str]:
    """Return what keeps entries, or some of their prompts, from being rendered; everything else can go ahead.

    That is: files that do not exist; weights that are of another family or for another base than they are given as; a
    motion module that does not fit the base; folders of weights in which parts are missing; sizes, lengths and steps
    that they cannot do, and settings that contradict each other; embeddings that no prompt uses, or that have one
    token; names that no file can have, or that stand for several models. A file that is there but cannot be read is
    left to its entry's items, which fail with it.

    Returns:
        All problems of an entry, or of a prompt, as one line.

    Raises:
        UserError: nothing can be rendered; the line tells why, what all entries share once.
    """
    found: dict[EntryIndex, list[str]] = defaultdict(list)
    for place, problem in _problems(catalog):
        found[place].append(problem)
    if found and all(_is_unrenderable(catalog, index, found) for index in range(len(catalog.entries))):
        lines = _lines(found, catalog)
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise UserError(f"the catalog has {count}: {_first_of(lines)}")
    return {place: "; ".join(problems) for place, problems in found.items()}


def report(problems: Mapping[EntryIndex, str], catalog: Catalog) -> str:
    """Return the problems that `check` found as one line for a log; at most 20 of them by name."""
    if not problems:
        return f"all {len(catalog.entries)} entries can be rendered"
    entries = sum(isinstance(place, int) for place in problems)
    prompts = len(problems) - entries
    counts = [f"{entries} of {len(catalog.entries)} entries"] if entries else []
    counts += [f"{prompts} prompt{'s' if prompts > 1 else ''}{' of others' if entries else ''}"] if prompts else []
    lines = _lines({place: [problem] for place, problem in problems.items()}, catalog)
    return f"{' and '.join(counts)} cannot be rendered: {_first_of(lines)}"


def _problems(catalog: Catalog) -> Iterator[tuple[EntryIndex, str]]:
    """Yield every problem with the entry, or the prompt of an entry, that has it."""
    yield from _name_problems(catalog)
    predictions = read_predictions(entry.checkpoint for entry in catalog.entries if entry.checkpoint is not None)
    models, of_controls = ModelChecks(predictions), ControlChecks()
    files_of = [files_in_fields(entry, models.architecture(entry.base or catalog.base)) for entry in catalog.entries]
    files = check_files(chain.from_iterable(files_of))
    conditions = check_conditions(
        file
        for entry in catalog.entries
        for settings in catalog.settings_of_prompts(entry)
        for file in condition_files(settings)
    )
    tokens = cache(token_of)
    for index, entry in enumerate(catalog.entries):
        yield from ((index, f"{file.field}: {files[file]}") for file in files_of[index] if file in files)
        if not catalog.prompts_of(entry):
            yield index, "it has no prompts: give it some, or the whole catalog"
        words = [
            (file.uri, token)
            for file in named_files(entry)
            if file.slot.role == "embedding" and (token := tokens(file.uri, file.token))
        ]
        for path, token in words:
            if not any(uses(text, token) for text in _texts(catalog, entry)):
                yield index, f"no prompt uses the embedding {path}: write {token!r} where it belongs"
        yield from ((index, problem) for problem in _token_problems(words))
        yield from _prompt_problems(catalog, index)
        yield from ((index, problem) for problem in _preset_problems(entry, catalog.preset))
        yield from _model_problems(catalog, index, _Checks(models, of_controls, conditions))
    for text, places in models.warnings.items():
        logger.warning("%s", _line(text, places, catalog))


def _name_problems(catalog: Catalog) -> Iterator[tuple[int, str]]:
    by_name = defaultdict(list)
    for index, entry in enumerate(catalog.entries):
        by_name[entry.name].append(index)
        if not _SAFE_NAME.fullmatch(entry.name):
            yield index, "use letters, digits, '.', '_' and '-' in the name"
    for indexes in by_name.values():
        entries = [catalog.entries[index] for index in indexes]
        if any(not _is_model_of(entry, entries[0]) for entry in entries[1:]):
            problem = f"{len(indexes)} entries have this name and not the same model: give each model its own"
            yield from ((index, problem) for index in indexes)


def _is_model_of(entry: Entry, other: Entry) -> bool:
    fields = [field for field, slot in WEIGHTS_SLOTS.items() if slot.role != "control"]
    fields += ["noise_schedule", *ComputeSettings.model_fields]
    return all(getattr(entry, field) == getattr(other, field) for field in fields)


def _token_problems(words: Sequence[tuple[str, str]]) -> Iterator[str]:
    for (path, token), (other_path, other) in combinations(words, 2):
        if uses(token, other) and uses(other, token):  # each is in the other: they are the same
            yield f"{path} and {other_path} both have the token {token!r}: give one of them another, as `token:`"


def _texts(catalog: Catalog, entry: Entry) -> Iterator[str]:
    """Yield the texts in which the words of an entry's embeddings may stand."""
    shared = catalog.settings_of(entry)
    for prompt in catalog.prompts_of(entry):
        settings = settings_of_prompt(shared, prompt)
        for text in (*texts_by_frame(prompt.prompt).values(), *texts_by_frame(settings["negative_prompt"]).values()):
            yield joined(a1111_syntax.parse(text)) if settings["prompt_syntax"] == "a1111" else text


class _Checks(NamedTuple):
    """What looks at an entry's settings."""

    models: ModelChecks
    controls: ControlChecks
    conditions: Mapping[ConditionFile, str]
    """What is wrong with pictures and videos, whatever field names them."""

    def problems(self, place: EntryIndex, model: ModelFiles, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Return why no clip can be made with an entry's or a prompt's settings."""
        files = {file: self.conditions.get(file._replace(field="")) for file in condition_files(settings)}
        absent = [f"{file.field}: {problem}" for file, problem in files.items() if problem]
        return (
            *self.models.settings(place, model, settings),
            *contradictions.contradictions(settings),
            *(absent or self.controls.problems(model.base, settings)),
        )


def _model_problems(catalog: Catalog, index: int, checks: _Checks) -> Iterator[tuple[EntryIndex, str]]:
    entry = catalog.entries[index]
    try:
        model = catalog.model_files(entry)
    except UserError as error:
        yield index, str(error)
        return
    if problem := checks.models.model(model):
        yield index, problem
        return
    shared = catalog.settings_of(entry)
    of_entry = cache(lambda: checks.problems(index, model, shared))
    found = [
        of_entry()
        if prompt.model_fields_set.isdisjoint(_CHECKED_SETTINGS)
        else (
            *_preset_problems(prompt, shared["preset"]),
            *checks.problems((index, number), model, settings_of_prompt(shared, prompt)),
        )
        for number, prompt in enumerate(catalog.prompts_of(entry))
    ]
    yield from _merged_problems(index, found)


def _preset_problems(given: SeededRenderSettings, inherited: PresetName | None) -> Iterator[str]:
    """Yield what is wrong with the preset of an entry or a prompt beside the one that it has from farther away."""
    if inherited and given.preset is None and "preset" in given.model_fields_set:
        yield f"preset: null undoes nothing of preset {inherited}: name another, such as quality, or leave it away"


def _prompt_problems(catalog: Catalog, index: int) -> Iterator[tuple[EntryIndex, str]]:
    shared = catalog.settings_of(catalog.entries[index])
    found = []
    for prompt in catalog.prompts_of(catalog.entries[index]):
        settings = settings_of_prompt(shared, prompt)
        how = {"syntax": settings["prompt_syntax"], "num_frames": settings["num_frames"]}
        texts = (prompt.prompt, settings["negative_prompt"])
        found.append(tuple(problem for text in texts for problem in prompt_problems(text, **how)))
    yield from _merged_problems(index, found)


def _merged_problems(index: int, found: Sequence[tuple[str, ...]]) -> Iterator[tuple[EntryIndex, str]]:
    """Yield the problems of an entry's prompts as the entry's where all of them have the same, else as the prompts'."""
    if len(set(found)) == 1:
        yield from ((index, problem) for problem in found[0])
        return
    yield from (((index, number), problem) for number, problems in enumerate(found) for problem in problems)


def _is_unrenderable(catalog: Catalog, index: int, found: Collection[EntryIndex]) -> bool:
    num_prompts = len(catalog.prompts_of(catalog.entries[index]))
    return index in found or all((index, number) in found for number in range(num_prompts))


def _lines(found: Mapping[EntryIndex, Sequence[str]], catalog: Catalog) -> list[str]:
    """Return a line for each distinct problem, with the entries that have it."""
    places = defaultdict(list)
    for place, problems in found.items():
        for problem in problems:
            places[problem].append(place)
    return [_line(problem, owners, catalog) for problem, owners in places.items()]


def _line(problem: str, places: Sequence[EntryIndex], catalog: Catalog) -> str:
    if len(places) == len(catalog.entries) > 1 and all(isinstance(place, int) for place in places):
        return problem
    names = list(dict.fromkeys(_name(place, catalog) for place in places))
    if len(names) == 1:
        return f"entry {names[0]}: {problem}"
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"entries {', '.join(names[:_MAX_NAMED])}{more}: {problem}"


def _name(place: EntryIndex, catalog: Catalog) -> str:
    if isinstance(place, int):
        return repr(catalog.entries[place].name)
    entry = catalog.entries[place[0]]
    text = catalog.prompts_of(entry)[place[1]].prompt
    return f"{entry.name!r} (prompt {text if len(text) <= _PROMPT_CHARS else f'{text[:_PROMPT_CHARS]}...'!r})"


def _first_of(lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - _MAX_TOLD} more"] if len(lines) > _MAX_TOLD else []
    return "; ".join([*lines[:_MAX_TOLD], *more])
