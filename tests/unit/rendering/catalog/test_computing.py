"""How the UNet computes, as catalogs say it: whose word counts, and what is in digests."""

import pytest

from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.checks.catalog import _name_problems

CONTENT = {"base": "b", "motion_module": "m", "prompts": ["a cat"]}


def models_of(auto_precision=None, *, entry=None, **catalog):
    content = CONTENT | catalog | {"entries": [{"name": "one"} | (entry or {})]}
    plan = expand(Catalog.model_validate(content), content_hash=str, auto_precision=auto_precision)
    (model,) = plan.models.values()
    (found,) = plan.items
    return found.digest, model


def test_what_is_not_said_is_in_no_digest():
    plain, model = models_of()
    assert (model.precision, model.compile) == (None, False)
    assert models_of(precision=None, compile=False)[0] == plain
    assert models_of(precision="auto")[0] == plain
    assert models_of("bfloat16")[0] == plain


def test_what_is_said_tells_items_and_what_stays_in_memory_apart():
    said = [{}, {"precision": "float32"}, {"precision": "bfloat16"}, {"precision": "float16"}, {"compile": True}]
    said.append({"precision": "bfloat16", "compile": True})
    found = [models_of(**each) for each in said]
    assert len({digest for digest, _ in found}) == len(said)
    assert len({model.resident for _, model in found}) == len(said)


def test_auto_is_what_was_found_out_as_if_the_catalog_said_so():
    digest, model = models_of("bfloat16", precision="auto")
    assert model.precision == "bfloat16"
    assert digest == models_of(precision="bfloat16")[0]


@pytest.mark.parametrize(
    ("catalog", "entry", "expected"),
    [
        ({"precision": "bfloat16", "compile": True}, {}, ("bfloat16", True)),
        ({"precision": "bfloat16", "compile": True}, {"precision": "float32", "compile": False}, ("float32", False)),
        ({"precision": "bfloat16"}, {"precision": None}, (None, False)),
        ({}, {"compile": True}, (None, True)),
    ],
)
def test_an_entrys_word_comes_before_the_catalogs(catalog, entry, expected):
    _, model = models_of(entry=entry, **catalog)
    assert (model.precision, model.compile) == expected


def test_entries_of_one_name_compute_alike():
    entries = [{"name": "one"}, {"name": "one", "precision": "bfloat16"}]
    problems = list(_name_problems(Catalog.model_validate(CONTENT | {"entries": entries})))
    assert problems == [
        (index, "2 entries have this name and not the same model: give each model its own") for index in (0, 1)
    ]
