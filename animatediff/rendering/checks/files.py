"""Files that are not there, and weights of another family, or for another base than a catalog gives them as."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from animatediff import storage
from animatediff.errors import UserError, any_error_as_user_error
from animatediff.rendering.catalog.condition_files import ConditionFile
from animatediff.rendering.catalog.entries import PersonalisedFiles
from animatediff.rendering.catalog.named_files import named_files
from animatediff.rendering.catalog.picture_uris import is_local_folder
from animatediff.rendering.conditions.pictures import check_picture
from animatediff.weights import prediction
from animatediff.weights.identify.messages import BASE_NAMES
from animatediff.weights.identify.weights_file import expect_family
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS, WeightsSlot
from animatediff.weights.layouts import few_step
from animatediff.weights.layouts.architectures import CONFIGS, PARTS, KnownBase
from animatediff.weights.layouts.families import is_lora
from animatediff.weights.lora import lora_file
from animatediff.weights.reading.files import local_copy, read_json
from animatediff.weights.reading.part_files import WEIGHTS_FILES
from animatediff.weights.reading.remote_header import remote_header
from animatediff.weights.reading.tensors import TensorFile, open_tensors

_NUM_THREADS = 16  # they wait for storage
_NUM_DECODERS = 4  # of pictures, each of which may take 300 MB
_KIND_OF_SCALING = {parts["vae"]["scaling_factor"]: kind for kind, parts in CONFIGS.items()}


class FileInField(NamedTuple):
    """A file, and what it is said to be."""

    uri: str
    field: str
    """The field of an entry that names it, or would."""
    base: KnownBase | None = None
    """The architecture of the base that it is to be used with; None is any."""

    @property
    def slot(self) -> WeightsSlot:
        """What belongs in the field."""
        return WEIGHTS_SLOTS[self.field]


def files_in_fields(weights: PersonalisedFiles, base: KnownBase | None) -> list[FileInField]:
    """Return the files of an entry's model, but for its base and motion module, which are checked together."""
    return [
        FileInField(file.uri, file.slot.field, base)
        for file in named_files(weights)
        if not file.slot.is_needed and file.slot.role != "control"
    ]


def check_files(files: Iterable[FileInField]) -> Mapping[FileInField, str]:
    """Return what is wrong with files; those with which all is well are left out.

    A file that is there but cannot be read is no problem here: its entry's items fail with it.
    """
    distinct = list(dict.fromkeys(files))
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        found = pool.map(_problem, distinct)
        return {file: problem for file, problem in zip(distinct, found, strict=True) if problem}


def check_conditions(files: Iterable[ConditionFile]) -> Mapping[ConditionFile, str]:
    """Return what is wrong with pictures and videos; those with which all is well are left out.

    Local pictures that are named one by one are decoded. Those of a folder, remote ones and videos are there: their
    items fail with them.
    """
    distinct = list(dict.fromkeys(file._replace(field="") for file in files))
    with ThreadPoolExecutor(_NUM_THREADS) as pool, ThreadPoolExecutor(_NUM_DECODERS) as decoders:
        absent = list(pool.map(_condition_absence, distinct))
        found = decoders.map(lambda file, problem: problem or _picture_problem(file), distinct, absent)
        return {file: problem for file, problem in zip(distinct, found, strict=True) if problem}


def _picture_problem(file: ConditionFile) -> str | None:
    if file.is_video or not storage.is_local(file.uri) or is_local_folder(file.uri):
        return None
    try:
        check_picture(file.uri)
    except UserError as error:
        return str(error)
    return None


def _condition_absence(file: ConditionFile) -> str | None:
    if file.uri.startswith(("models:/", "runs:/")):
        return f"{file.uri} is MLflow's, which gives weights alone here: name the file at a path or a URI of its own"
    if problem := _absence(file.uri):
        return problem
    is_wrong_folder = not file.may_be_folder and is_local_folder(file.uri)
    return f"{file.uri} is a folder, and one file is needed here" if is_wrong_folder else None


def _absence(uri: str) -> str | None:
    try:
        return None if storage.exists(uri) else f"there is no file or folder {uri}"
    except UserError as error:
        return str(error)


def _problem(given: FileInField) -> str | None:
    if problem := _absence(given.uri):
        return problem
    try:
        names = _names_in(given.uri) if given.slot.role == "replacement" else None
    except UserError as error:
        return str(error)
    if names is not None:
        return _folder_problem(given, names)
    try:
        file = remote_header(given.uri) or _opened(given)
    except UserError:  # a broken file fails its own items only
        return _not_a_file(given.uri)
    try:
        _check_family(file, given.slot, given.base)
    except UserError as error:
        return str(error)
    return None


def _not_a_file(uri: str) -> str | None:
    try:
        return None if _names_in(uri) is None else f"{uri} is a folder: name the weights file in it"
    except UserError:
        return None


def _opened(given: FileInField) -> TensorFile:
    return lora_file.open_lora(given.uri) if is_lora(given.slot.family) else open_tensors(given.uri)


def _check_family(file: TensorFile, slot: WeightsSlot, base: KnownBase | None) -> None:
    """Refuse a file that does not belong in a slot, is for another base, or does not say readably how it is sampled.

    Raises:
        UserError: the line says what it is and where it belongs.
    """
    if is_lora(slot.family):
        lora_file.check_family(file, slot.family, base=base)
        with any_error_as_user_error(f"{file.uri} is damaged where it says how it is sampled; take the file as it was"):
            few_step.of_lora(file.metadata)
    else:
        expect_family(file, slot.families, base=base)
        prediction.of_file(file)


def _names_in(uri: str) -> list[str] | None:
    """Return the names of the files below a folder.

    None of a file, or of what is on a web server, which may not know what a folder is.
    """
    names = ["."] if uri.startswith(("http://", "https://")) else storage.find_files(uri)
    return None if names == ["."] else names


def _folder_problem(given: FileInField, names: Collection[str]) -> str | None:
    """Return what a checkpoint or a VAE that is a folder lacks; its parts say themselves what they are."""
    what, replaceable = given.uri, PARTS.keys() if given.slot.family == "checkpoint" else (given.slot.family,)
    parts = [part for part in replaceable if any(name.startswith(f"{part}/") for name in names)]
    lacking = [part for part in parts if not _has_weights(names, f"{part}/")]
    if lacking:
        return f"{what} has no weights in its {lacking[0]}/: {WEIGHTS_FILES[0]} is missing there"
    if not parts and not _has_weights(names, ""):
        return f"{what} is a folder without weights of it: name a file, or a folder that diffusers wrote"
    return _scaling_problem(given) if given.slot.family == "vae" else None


def _scaling_problem(given: FileInField) -> str | None:
    """Return why a VAE's folder does not go with the base: SDXL's has the layers of Stable Diffusion 1.x's."""
    try:
        config = read_json(local_copy(storage.join(given.uri, "config.json")), f"the config of VAE {given.uri}")
    except UserError:  # of a whole model, whose parts say themselves what they are, or of none
        return None
    kind = next((kind for factor, kind in _KIND_OF_SCALING.items() if config.get("scaling_factor") == factor), None)
    if kind is None or given.base in (None, kind):
        return None
    return (
        f"VAE {given.uri} is {BASE_NAMES[kind]}'s, as its scaling_factor {config['scaling_factor']} says: take one "
        "of the base's kind"
    )


def _has_weights(names: Collection[str], folder: str) -> bool:
    return any(f"{folder}{name}" in names for name in WEIGHTS_FILES)
