"""Prompts by frame: one thing in every form, refused by name where they are none, and in results what they were."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animatediff.errors import UsageError
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.entries import Prompt
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.catalog.prompts.prompt_text import is_travel, texts_by_frame
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.results.ledger import make_result, read_item, read_results, write_item
from animatediff.rendering.results.table import write_table

BY_FRAME = {24: "a dog", 0: 'a "cat", ünd [a:b]'}
TEXT = '{"0": "a \\"cat\\", ünd [a:b]", "24": "a dog"}'


@given(st.dictionaries(st.integers(0, 10**6), st.text(), min_size=1))
def test_texts_come_back_in_the_order_of_their_frames(by_frame):
    prompt = Prompt(prompt=by_frame).prompt
    assert list(texts_by_frame(prompt).items()) == sorted(by_frame.items())
    assert Prompt(prompt=prompt).prompt == prompt
    assert Prompt(prompt={str(frame): text for frame, text in by_frame.items()}).prompt == prompt


@pytest.mark.parametrize("text", ["", "a cat", "{a|b}", '{"a": "b"}', "{0}", '["0"]', "{red: 0}", '{"subject": 1}'])
def test_a_text_that_is_no_such_mapping_is_itself(text):
    assert Prompt(prompt=text).prompt == text
    assert not is_travel(text)
    assert texts_by_frame(text) == {0: text}


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ({}, "at least one frame"),
        ({-1: "a"}, "whole numbers from 0 on .*got -1"),
        ({1.5: "a"}, "whole numbers"),
        ({True: "a", 3: "b"}, "whole numbers .*got True"),
        ({"first": "a"}, "whole numbers .*got 'first'"),
        ({0: "a", 8: 1984}, r"the prompt of frame 8 .*put it into quotes \(got 1984\)"),
        ({0: "a", "00": "b"}, "several prompts are for one frame"),
        ('{"0": "a", "8": }', "a JSON object"),
        ('{"0": ["a"]}', "the prompt of frame 0"),
    ],
)
def test_what_is_no_prompt_is_refused_in_one_line(prompt, says):
    for field in ("prompt", "negative_prompt"):
        with pytest.raises(ValueError, match=says) as caught:
            Prompt.model_validate({"prompt": "a cat", field: prompt})
        assert len(str(caught.value).splitlines()) <= 4  # pydantic's frame and ours: one line of a message


def items(folder, catalog, **tables):
    for name, content in tables.items():
        (folder / name.replace("_", ".")).write_text(content)
    (folder / "catalog.yaml").write_text(f"base: owner/base\nmotion_module: mm.safetensors\n{catalog}\n")
    return expand(catalog_files.read(str(folder / "catalog.yaml")), content_hash=str).items


def csv_cell(text):
    return '"' + text.replace('"', '""') + '"'


def test_every_form_is_one_item(tmp_path):
    mapping, entry = json.dumps(BY_FRAME[0], ensure_ascii=False), "entries: [{name: one}]"
    plain = f"{{24: a dog, 0: {mapping}}}"
    row = json.dumps({"prompt": {"24": "a dog", "0": BY_FRAME[0]}})
    pq.write_table(pa.table({"prompt": [TEXT]}), tmp_path / "p.parquet")
    forms = [
        items(tmp_path, f"prompts: [{plain}]\n{entry}"),
        items(tmp_path, f"prompts: [{{prompt: {plain}}}]\n{entry}"),
        items(tmp_path, f"prompts: [{json.dumps(TEXT)}]\n{entry}"),
        items(tmp_path, f"prompts_uri: p.csv\n{entry}", p_csv=f"prompt,width\n{csv_cell(TEXT)},512\n"),
        items(tmp_path, f"prompts_uri: p.jsonl\n{entry}", p_jsonl=row),
        items(tmp_path, f"prompts_uri: p.parquet\n{entry}"),
        items(tmp_path, f"prompts_uri: p.txt\n{entry}", p_txt=TEXT),
        items(tmp_path, "entries_uri: e.csv", e_csv=f"name,prompt\none,{csv_cell(TEXT)}\n"),
        items(tmp_path, "entries_uri: e.csv", e_csv=f"name,prompts\none,{csv_cell(f'[{TEXT}]')}\n"),
    ]
    assert [[(item.prompt, item.digest) for item in form] for form in forms] == [[(TEXT, forms[0][0].digest)]] * 9


def test_negative_prompts_and_travel_come_from_tables_as_well(tmp_path):
    table = f"prompt,negative_prompt,travel\na cat,{csv_cell(TEXT)},{csv_cell(json.dumps({'dwell': 0.5}))}\n"
    (item,) = items(tmp_path, "prompts_uri: p.csv\nentries: [{name: one}]", p_csv=table)
    assert texts_by_frame(item.negative_prompt) == BY_FRAME
    assert (item.travel.dwell, item.travel.interpolation) == (0.5, "linear")


def test_one_frame_in_a_list_of_prompts_is_more_likely_a_text_without_quotes(tmp_path):
    with pytest.raises(UsageError, match="put it into quotes"):
        items(tmp_path, "prompts: [{1984: a film}]\nentries: [{name: one}]")


@pytest.mark.parametrize("cell", ['{"0": 5}', '{"0": "a", "x": "b"}', '{"0": "a"'])
def test_a_cell_that_is_broken_is_refused_by_line_and_column(tmp_path, cell):
    table = f"prompt\na cat\n{csv_cell(cell)}\n"
    with pytest.raises(UsageError, match=r"p\.csv, line 3, column 'prompt'"):
        items(tmp_path, "prompts_uri: p.csv\nentries: [{name: one}]", p_csv=table)


def test_the_default_settings_leave_a_digest_as_it_was_and_others_change_it(tmp_path):
    def digest(settings, prompt="a cat"):
        return items(tmp_path, f"entries: [{{name: one, prompts: [{prompt}], {settings}}}]")[0].digest

    plain, travels = digest("fps: 8"), ["travel: {dwell: 0.5}", "travel: {interpolation: slerp}"]
    assert digest("prompt_syntax: plain, travel: null") == plain
    assert digest("prompt_syntax: a1111") != plain
    assert {digest(travel) for travel in travels} == {plain}  # from one text there is no way to another
    changing = "{0: a cat, 8: a dog}"
    assert len({digest(settings, changing) for settings in ("fps: 8", "prompt_syntax: a1111", *travels)}) == 4


def test_a_result_keeps_it_as_text(tmp_path):
    item = Item(digest="0" * 64, entry="one", model="m", prompt=BY_FRAME, seed=0, prompt_syntax="a1111")
    result = make_result(item, status="failed", error="broken", files={})
    write_item(str(tmp_path), result)
    write_table(str(tmp_path), [result])
    assert pq.read_table(tmp_path / "results.parquet")["prompt"].to_pylist() == [TEXT]
    (row,) = read_results(str(tmp_path))
    for found in (row, read_item(str(tmp_path), item.digest)):
        assert texts_by_frame(found.prompt) == BY_FRAME
        assert found.prompt_syntax == "a1111"
