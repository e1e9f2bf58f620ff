"""What an entry of a catalog names: a row for each field, with the kind of weights file that belongs in it.

Whatever is done with an entry's files is a loop over `WEIGHTS_SLOTS`: digests, hashes, checks, the columns of tables,
what is fetched from MLflow, and the message that tells where a file belongs. A new kind of file is a row here and a
field of `rendering.catalog.entries.PersonalisedFiles`. The table lies here, below the catalog, since that message is
needed here.
"""

from typing import Literal, NamedTuple

from animatediff.weights.layouts.families import Family

Role = Literal["base", "motion_module", "replacement", "addition", "embedding", "control"]
"""What is done with a file: `base` and `motion_module` are what stays in memory while entries come and go, a
`replacement` takes the place of the base's parts, an `addition` is added to weights by a scale, an `embedding` gives
prompts a word. A `control` stands beside the model, whose weights it leaves alone: it is a setting of a prompt."""


class WeightsSlot(NamedTuple):
    """A field of an entry that names weights."""

    field: str
    role: Role
    families: tuple[Family, ...] = ()
    """What its files may be, first what they are meant to be; none where they are no weights files."""
    is_list: bool = False
    """Whether it names any number of files."""
    uri_field: str = "path"
    """Where a file that comes with settings of its own has its URI."""

    @property
    def family(self) -> Family | None:
        """What its files are meant to be."""
        return next(iter(self.families), None)

    @property
    def has_scale(self) -> bool:
        """Whether its files are added by a scale of their own."""
        return self.role == "addition"

    @property
    def is_needed(self) -> bool:
        """Whether every item has one: an entry that names none has the catalog's."""
        return self.role in ("base", "motion_module")


# In the order in which results tell the files' hashes, and in which additions are added up: sums round by it.
_ROWS = (
    WeightsSlot("base", "base"),
    WeightsSlot("motion_module", "motion_module", ("motion_module",)),
    WeightsSlot("checkpoint", "replacement", ("checkpoint", "vae")),
    WeightsSlot("vae", "replacement", ("vae",)),
    WeightsSlot("domain_adapter", "addition", ("domain_adapter",)),
    WeightsSlot("loras", "addition", ("lora",), is_list=True),
    WeightsSlot("motion_loras", "addition", ("motion_lora",), is_list=True),
    WeightsSlot("embeddings", "embedding", ("textual_inversion",), is_list=True),
    WeightsSlot("controls", "control", ("controlnet", "sparse_control"), is_list=True, uri_field="net"),
    WeightsSlot("images", "control", ("ip_adapter",), is_list=True, uri_field="adapter"),
    WeightsSlot("image_encoder", "control", ("image_encoder",)),
)
WEIGHTS_SLOTS = {slot.field: slot for slot in _ROWS}
"""By the field's name."""
_TRAINED_FROM: dict[Family, str] = {
    "motion_module": "model.motion_module",
    "checkpoint": "base_checkpoints",
    "domain_adapter": "model.domain_adapter.path",
    "sparse_control": "model.sparse_control",
}
"""Fields of a training's config that name files, by the family of these."""


def field_for(family: Family) -> str | None:
    """Return the field in which a file of a family belongs; None where an entry has none for it."""
    slot = _slot_for(family)
    return slot.field if slot else None


def place_for(family: Family) -> str | None:
    """Return in words where a file of a family belongs, in catalogs and in trainings; None where it does nowhere."""
    slot = _slot_for(family)
    if slot is None:
        return None
    training_field = _TRAINED_FROM.get(family)
    return f"`{slot.field}:` in a catalog" + (f", or as `{training_field}:` in a training" if training_field else "")


def _slot_for(family: Family) -> WeightsSlot | None:
    owners = [slot for slot in _ROWS if family in slot.families]
    return next((slot for slot in owners if slot.family == family), owners[0] if owners else None)
