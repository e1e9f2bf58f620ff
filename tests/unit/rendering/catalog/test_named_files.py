"""What an entry names: the table of slots knows every field of weights, and each is gone through in its order."""

import pytest

from animatediff.rendering.catalog.entries import (
    ComputeSettings,
    EmbeddingFile,
    Entry,
    Lora,
    ModelFiles,
    PersonalisedFiles,
    RenderSettings,
)
from animatediff.rendering.catalog.named_files import NamedFile, named_files, scaled_loras, with_uris
from animatediff.rendering.checks.files import FileInField, files_in_fields
from animatediff.weights.identify.weights_slots import WEIGHTS_SLOTS, field_for

ENTRY = {
    "name": "one",
    "base": "owner/base",
    "motion_module": "m.safetensors",
    "checkpoint": "c.safetensors",
    "vae": "v.safetensors",
    "loras": ["a.pt", {"path": "b.pt", "scale": 0.5}],
    "domain_adapter": {"path": "d.pt", "scale": 0},
    "motion_loras": ["p.pt"],
    "embeddings": [{"path": "e.pt", "token": "w"}],
}


CONTROLS = {field for field, slot in WEIGHTS_SLOTS.items() if slot.role == "control"}
GIVEN = {"controls": {"net": "a.pt", "pictures": "p.png"}, "images": {"adapter": "a.pt", "pictures": "p.png"}}


def test_the_table_knows_every_field_of_weights():
    models = WEIGHTS_SLOTS.keys() - CONTROLS
    assert models == PersonalisedFiles.model_fields.keys() - {"noise_schedule"} | {"base", "motion_module"}
    assert models == ModelFiles.model_fields.keys() - ComputeSettings.model_fields.keys() - {"noise_schedule"}
    assert WEIGHTS_SLOTS.keys() <= Entry.model_fields.keys()
    assert RenderSettings.model_fields.keys() >= CONTROLS  # a prompt may have its own


@pytest.mark.parametrize("field", WEIGHTS_SLOTS)
def test_a_row_says_what_its_field_takes(field):
    slot = WEIGHTS_SLOTS[field]
    given = GIVEN.get(field, "a.pt")
    entry = Entry.model_validate({"name": "one", field: [given] if slot.is_list else given})
    assert list(named_files(entry)) == [NamedFile(slot, "a.pt")]
    (value,) = getattr(entry, field) if slot.is_list else (getattr(entry, field),)
    assert isinstance(value, Lora) == slot.has_scale
    assert isinstance(value, EmbeddingFile) == (slot.role == "embedding")


def test_files_come_in_the_order_of_the_slots():
    found = list(named_files(Entry.model_validate(ENTRY)))
    assert [file.uri for file in found] == [
        "owner/base",
        "m.safetensors",
        "c.safetensors",
        "v.safetensors",
        "d.pt",
        "a.pt",
        "b.pt",
        "p.pt",
        "e.pt",
    ]
    assert found[-1] == NamedFile(WEIGHTS_SLOTS["embeddings"], "e.pt", token="w")
    added = scaled_loras(Entry.model_validate(ENTRY))
    assert [(file.uri, file.scale, file.family) for file in added] == [
        ("d.pt", 0, "domain_adapter"),
        ("a.pt", 1, "lora"),
        ("b.pt", 0.5, "lora"),
        ("p.pt", 1, "motion_lora"),
    ]
    assert not list(named_files(PersonalisedFiles()))


def test_other_uris_take_the_place_of_all_but_the_bases():
    entry = Entry.model_validate(ENTRY)
    moved = with_uris(entry, lambda uri: f"s3://b/{uri}")
    assert [file.uri for file in named_files(moved)] == [
        file.uri if file.slot.role == "base" else f"s3://b/{file.uri}" for file in named_files(entry)
    ]
    assert with_uris(moved, lambda uri: uri.removeprefix("s3://b/")) == entry
    assert with_uris(entry, lambda uri: uri).model_fields_set >= entry.model_fields_set


def test_what_is_checked_by_itself_is_all_but_base_and_motion_module():
    given = files_in_fields(Entry.model_validate(ENTRY), "sdxl")
    assert given[0] == FileInField("c.safetensors", "checkpoint", "sdxl")
    assert {file.field for file in given} == ENTRY.keys() - {"name", "base", "motion_module"}


def test_a_family_belongs_in_one_field():
    weights = [slot for slot in WEIGHTS_SLOTS.values() if slot.family]
    assert [field_for(slot.family) for slot in weights] == [slot.field for slot in weights]
    assert field_for("checkpoint") == "checkpoint"
    assert field_for("sparse_control") == field_for("controlnet") == "controls"
    assert field_for("t2i_adapter") is None
