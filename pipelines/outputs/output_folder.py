"""The folder that a job writes to: a new one, or the same job's from before. Nothing else is ever written over."""

import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from animatediff import storage
from animatediff.data.columns import DUPLICATES_FILE
from animatediff.data.curation.page import INDEX
from animatediff.data.ingest.plan import PLAN_FOLDER
from animatediff.data.ingest.seal import QUARANTINE_FILE
from animatediff.data.inspection.card import CARD_FILE, HISTOGRAMS_FILE
from animatediff.data.manifest import FILE_NAME as MANIFEST_FILE
from animatediff.errors import UsageError, UserError
from animatediff.rendering.results.reports import GALLERY
from animatediff.rendering.results.table import TABLE
from animatediff.training.recipes.table import TRAINED_FILES
from animatediff.uris import is_relative
from pipelines.outputs.file_names import (
    BEST_RECORD_FILE,
    CONFIG_FILE,
    CURATE_STATE_FILE,
    INGEST_STATE_FILE,
    RUN_FILE,
    SKIPPED_FILE,
    best_weights_file,
)

Job = Literal["curate", "ingest", "train", "animate"]


class _Folder(NamedTuple):
    """What a job's folder looks like, whichever version wrote it."""

    what: str
    marks: Mapping[str, bytes]
    """Files that only this job writes, and what is inside them."""
    files: Collection[str]
    """Further files that it writes at the top."""
    folders: Collection[str]
    """Folders in which it writes and deletes; of `bucket=16x64x64` what stands before the sign."""


_FOLDERS: dict[str, _Folder] = {
    "curate": _Folder(
        "shots of pipelines/curate.py",
        {
            CONFIG_FILE: rb"(?ms)^source:.*^shots:",
            MANIFEST_FILE: rb'"kind": "shots"',
            f"{PLAN_FOLDER}/settings.json": rb'"scan_version"',
        },
        (QUARANTINE_FILE, CURATE_STATE_FILE, INDEX),
        (PLAN_FOLDER, "parts", "captions", "shots", "pages"),
    ),
    "ingest": _Folder(
        "a data set of pipelines/ingest.py",
        {
            CONFIG_FILE: rb"(?ms)^source:.*^base:",
            MANIFEST_FILE: rb'"encoder_fp"',
            f"{PLAN_FOLDER}/settings.json": rb'"encoder_fp"',
        },
        (QUARANTINE_FILE, DUPLICATES_FILE, INGEST_STATE_FILE, CARD_FILE, HISTOGRAMS_FILE),
        (PLAN_FOLDER, "parts", "bucket"),
    ),
    "train": _Folder(
        "a run of pipelines/train.py",
        {CONFIG_FILE: rb"(?m)^run_name:", RUN_FILE: rb'"dataset_digest"'},
        (BEST_RECORD_FILE, SKIPPED_FILE, *TRAINED_FILES, *map(best_weights_file, TRAINED_FILES)),
        ("checkpoints", "validation", "sample", "inputs"),
    ),
    "animate": _Folder(
        "clips of pipelines/animate.py",
        {CONFIG_FILE: rb"(?m)^catalog_uri:", TABLE: rb"model_hashes"},
        (GALLERY,),
        ("items", "clips", "inputs"),
    ),
    "model": _Folder("a diffusers model", {"model_index.json": rb"_class_name"}, (), ("unet", "vae", "text_encoder")),
}


def check_output(output_uri: str, job: Job) -> None:
    """Refuse an output folder that is not this job's, before anything is written.

    Raises:
        UsageError: it is a file, a home folder, or another job's folder, or lies in what another one manages, or
            holds files of somebody else's that the job would write over.
        UserError: the storage cannot be reached or refuses access.
    """
    problem = _problem(output_uri, job)
    if problem:
        raise UsageError(f"output_uri: {problem}: choose another folder")


def check_results(output_uri: str) -> None:
    """Refuse a folder of another job than animate, whose results are wanted.

    Raises:
        UsageError: it is another job's.
        UserError: the storage cannot be reached or refuses access.
    """
    marks = _marks(output_uri, storage.list_names(output_uri))
    if marks and "animate" not in marks:
        job, mark = next(iter(marks.items()))
        raise UsageError(
            f"output_uri: {output_uri} holds {_FOLDERS[job].what} ({mark}), no clips: name the animate job's folder"
        )


def _problem(output_uri: str, job: str) -> str | None:
    if not output_uri or (output_uri.startswith("~") and is_relative(output_uri)):
        return f"{output_uri!r} names no folder"
    if storage.is_local(output_uri):
        path = Path(storage.absolute(output_uri))
        if path.exists() and not path.is_dir():
            return f"{output_uri} is a file"
        if path in (_home(), Path("/")):
            return f"{output_uri} is no folder of a job's own"
    names = storage.list_names(output_uri)
    marks = _marks(output_uri, names)
    other = next((name for name in marks if name != job), None)
    if other is not None:
        return f"{output_uri} holds {_FOLDERS[other].what} ({marks[other]})"
    if job not in marks:
        own = _FOLDERS[job]
        if taken := sorted(names & {*own.files, *(mark for mark in own.marks if "/" not in mark)}):
            return f"{output_uri} holds a {taken[0]} that is not this job's, and that it would write over"
    elif names.isdisjoint(mark.partition("/")[0] for mark in _FOLDERS[job].marks if mark != CONFIG_FILE) and (
        _is_written_by_hand(output_uri)
    ):
        # A killed job may have left no more than its config, but that is a dump.
        return f"{output_uri} holds a {CONFIG_FILE} that this job would write over, with its every field and no comment"
    return _above(output_uri)


def _above(output_uri: str) -> str | None:
    """Whose managed folder `output_uri` lies in, if anybody's."""
    uri = storage.absolute(output_uri).rstrip("/")
    root = uri.find("://") + 3 if "://" in uri else 0
    while "/" in uri[root:]:
        uri, _, name = uri.rpartition("/")
        for folder in _FOLDERS.values():
            if name.partition("=")[0] in folder.folders and _mark(uri, folder) is not None:
                return f"{output_uri} lies in {name}/ of {uri}, {folder.what}, which manages it"
    return None


def _marks(uri: str, names: Collection[str]) -> dict[str, str]:
    """Return the jobs whose folder this is, each with the file that tells."""
    found = {job: _mark(uri, folder, names) for job, folder in _FOLDERS.items()}
    return {job: mark for job, mark in found.items() if mark is not None}


def _mark(uri: str, folder: _Folder, names: Collection[str] | None = None) -> str | None:
    """Return the file that tells whose the folder is, if it is this one.

    `names` are those in it, where they are known.
    """
    for name, inside in folder.marks.items():
        if names is not None and name.partition("/")[0] not in names:
            continue
        # What may not be read above a folder of one's own is nobody's to tell.
        with suppress(FileNotFoundError, *(() if names is not None else (UserError,))):
            if re.search(inside, storage.read_bytes(storage.join(uri, name))):
                return name
    return None


def _is_written_by_hand(output_uri: str) -> bool:
    text = storage.read_bytes(storage.join(output_uri, CONFIG_FILE)).decode(errors="replace")
    try:
        return yaml.safe_dump(yaml.safe_load(text), sort_keys=False) != text
    except yaml.YAMLError:
        return True


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None
