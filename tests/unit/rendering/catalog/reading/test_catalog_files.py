"""Catalogs as files: one content in every form is one plan, and what is wrong is told with its file, row and column."""

import csv
import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.errors import UsageError
from animatediff.rendering.catalog.catalog import Catalog, expand
from animatediff.rendering.catalog.named_files import scaled_loras
from animatediff.rendering.catalog.reading.catalog_files import read

SHARED = {"base": "owner/base", "motion_module": "mm.safetensors"}
WEIGHTS = ("name", "base", "motion_module", "loras", "domain_adapter", "embeddings", "priority")

texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool)
paths = st.sampled_from(["a.safetensors", "s3://bucket/b.safetensors", "models:/c/1", "runs:/0/d.pt", "e f.ckpt"])
loras = st.builds(lambda path, scale: {"path": path, "scale": scale}, paths, st.sampled_from([1.0, 0.5, -0.25, 1e-3]))
optional = {
    "base": st.just("owner/other"),
    "loras": st.lists(loras, min_size=1, max_size=3),
    "motion_loras": st.lists(loras, min_size=1, max_size=2),
    "domain_adapter": loras,
    "embeddings": st.lists(st.builds(lambda path: {"path": path}, paths), min_size=1, max_size=2),
    "priority": st.integers(-3, 3),
    "prompt": texts,
    "negative_prompt": texts,
    "sampler": st.sampled_from(["ddim", "lcm"]),
    "num_inference_steps": st.integers(1, 1000),
    "guidance_scale": st.sampled_from([1.0, 7.5]),
    "width": st.integers(8, 2048),
    "fps": st.floats(0.5, 100),
    "context": st.sampled_from([{"length": 24}, {"length": 8, "overlap": 2}]),
    "loop": st.booleans(),
    "init_image": st.sampled_from(["a.png", "s3://bucket/b.jpg"]),
    "strength": st.sampled_from([0.25, 0.8]),
    "free_init": st.sampled_from([{"iterations": 3}, {"iterations": 2, "fast": True}]),
    "second_pass": st.sampled_from([{"scale": 2.0}, {"of": "frames"}]),
    "guidance_interval": st.sampled_from([{"end": 0.5}, {"start": 0.25, "end": 0.75}]),
    "deep_cache": st.sampled_from([{"every": 3}, {"layers": 1}]),
    "seeds": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3),
}
rows = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(["x", "y", "z"])}, optional=optional), min_size=1, max_size=8
)


def as_text(name, value):
    """A cell of a CSV."""
    if name in ("loras", "motion_loras"):
        return ";".join(f"{file['path']}:{file['scale']}" for file in value)
    if name == "domain_adapter":
        return f"{value['path']}:{value['scale']}"
    if name == "embeddings":
        return "; ".join(file["path"] for file in value)
    if name == "seeds":
        return ";".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def write_csv(path, table, delimiter=","):
    names = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        writer.writerows({name: as_text(name, value) for name, value in row.items()} for row in table)


def write(folder, form, table):
    path = folder / f"table.{form}"
    if form in ("csv", "tsv"):
        write_csv(path, table, "\t" if form == "tsv" else ",")
    elif form == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table))
    elif form == "parquet":
        names = list(dict.fromkeys(name for row in table for name in row))
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in table]), path)
    return path


def as_entries(table):
    """The entries that the rows stand for, as a person would write them."""
    found = {}
    for number, row in enumerate(table):
        weights = {name: row[name] for name in row if name in WEIGHTS or name == "motion_loras"}
        others = {name: row[name] for name in row if name not in weights}
        if "prompt" in row:
            entry = found.setdefault(json.dumps(weights, sort_keys=True), weights | {"prompts": []})
            entry["prompts"].append(others)
        else:
            found[number] = weights | others
    return list(found.values())


def plan(catalog):
    return expand(catalog, content_hash=lambda uri: f"hash of {uri}")


@settings(max_examples=60)
@given(table=rows)
def test_every_form_of_one_content_is_one_plan(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("catalog")
    content = SHARED | {"prompts": ["for all"], "height": 64}
    expected = plan(Catalog.model_validate(content | {"entries": as_entries(table)}))
    (folder / "written.yaml").write_text(yaml.safe_dump(content | {"entries": as_entries(table)}))
    assert plan(read(str(folder / "written.yaml"))) == expected
    for form in ("csv", "tsv", "jsonl", "parquet"):
        path = write(folder, form, table)
        (folder / f"{form}.yaml").write_text(yaml.safe_dump(content | {"entries_uri": path.name}))
        assert plan(read(str(folder / f"{form}.yaml"))) == expected
        complete = write(folder, form, [SHARED | row for row in table if "prompt" in row] or [SHARED | {"name": "a"}])
        assert all(entry.base and entry.motion_module for entry in read(str(complete)).entries)


@settings(max_examples=30)
@given(table=st.lists(st.fixed_dictionaries({"prompt": texts}, optional={"seeds": optional["seeds"]}), min_size=1))
def test_prompts_of_a_table_are_for_every_entry(tmp_path_factory, table):
    folder = tmp_path_factory.mktemp("catalog")
    content = SHARED | {"entries": [{"name": "x"}, {"name": "y"}]}
    expected = plan(Catalog.model_validate(content | {"prompts": ["first", *table]}))
    for form in ("csv", "jsonl", "parquet"):
        name = write(folder, form, table).name
        (folder / f"{form}.yaml").write_text(yaml.safe_dump(content | {"prompts": ["first"], "prompts_uri": name}))
        assert plan(read(str(folder / f"{form}.yaml"))) == expected


def test_prompts_may_be_lines_of_a_text(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat, with a hat\n\n  [a dog:0.5]\r\n", newline="")
    content = SHARED | {"prompts_uri": "prompts.txt", "entries": [{"name": "x"}]}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    assert [prompt.prompt for prompt in read(str(tmp_path / "catalog.yaml")).prompts] == [
        "a cat, with a hat",
        "[a dog:0.5]",
    ]


def test_a_row_may_have_several_prompts(tmp_path):
    lines = [
        {"name": "x", "prompts": ["a", "b"], "width": 64},
        {"name": "x", "prompts": '["c"]', "prompt": "first"},
        {"name": "x", "prompts": [{"prompt": "d", "width": 72}], "width": 64},
        {"name": "x", "prompts": "as it is"},
    ]
    path = write(tmp_path, "jsonl", [SHARED | line for line in lines])
    (entry,) = read(str(path)).entries
    found = [(prompt.prompt, prompt.width) for prompt in entry.prompts]
    assert found == [("a", 64), ("b", 64), ("first", 512), ("c", 512), ("d", 72), ("as it is", 512)]


@pytest.mark.parametrize("text", ["[day:night:0.5] over a town", "[cat]", "{red|blue} [[hat]]", "[1girl:0.5], {x}"])
def test_a_cell_of_prompts_may_have_brackets_of_its_own(tmp_path, text):
    for form in ("csv", "jsonl", "parquet"):
        path = write(tmp_path, form, [SHARED | {"name": "x", "prompts": text}])
        assert [prompt.prompt for prompt in read(str(path)).entries[0].prompts] == [text]


def test_one_seed_needs_no_list(tmp_path):
    for form in ("jsonl", "parquet"):
        path = write(tmp_path, form, [SHARED | {"name": "x", "prompt": "a", "seeds": 3}])
        assert [item.seed for item in plan(read(str(path))).items] == [3]
    content = SHARED | {"seeds": 3, "prompts": ["a", {"prompt": "b", "seeds": 4}], "entries": [{"name": "x"}]}
    assert [item.seed for item in plan(Catalog.model_validate(content)).items] == [3, 4]


def test_decimals_of_parquet_are_numbers(tmp_path):
    scale, seeds = decimal.Decimal("0.50"), [decimal.Decimal("3.00"), decimal.Decimal(2**40)]
    row = {"name": "x", "prompt": "a", "fps": scale, "seeds": seeds, "loras": [{"path": "a.pt", "scale": scale}]}
    (item,) = plan(read(str(write(tmp_path, "parquet", [SHARED | row | {"seeds": seeds[0]}])))).items
    assert (item.fps, item.seed) == (0.5, 3)
    (entry,) = read(str(write(tmp_path, "parquet", [SHARED | row]))).entries
    assert (entry.prompts[0].seeds, entry.loras[0].scale) == ((3, 2**40), 0.5)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("name", datetime.date(2025, 1, 2), "date"),
        ("prompt", b"a cat", "bytes"),
        ("seeds", [datetime.datetime(2025, 1, 2)], "datetime"),
        ("context", {"length": datetime.time(16)}, "time"),
    ],
)
def test_a_cell_of_a_type_that_no_field_has_is_told(tmp_path, column, value, kind):
    rows = [SHARED | {"name": "x", "prompt": "a"} | {column: each} for each in (None, value)]
    with pytest.raises(UsageError) as caught:
        read(str(write(tmp_path, "parquet", rows)))
    told = f"table.parquet, row 2, column {column!r}: a text, a number, a list or a mapping is needed, not {kind} (got "
    assert told in str(caught.value)


def test_a_parquet_file_that_is_damaged_inside_is_told(tmp_path):
    text = pa.array([b"\xff"])
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"name": ["x"], "prompt": pa.Array.from_buffers(pa.string(), 1, text.buffers())}), path)
    with pytest.raises(UsageError, match=r"t\.parquet cannot be read beyond row 0: 'utf-8' codec"):
        read(str(path))


def test_tables_may_be_elsewhere_and_compressed(tmp_path):
    write_csv(tmp_path / "table.csv", [SHARED | {"name": "x", "prompt": "a"}])
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + (tmp_path / "table.csv").read_bytes()))
    assert len(read(str(packed)).entries) == 1
    (tmp_path / "sub").mkdir()
    for uri in (str(packed), "../table.csv.gz", f"file://{packed}"):
        (tmp_path / "sub" / "catalog.yaml").write_text(yaml.safe_dump(SHARED | {"entries_uri": uri}))
        assert len(read(str(tmp_path / "sub" / "catalog.yaml")).entries) == 1


def test_what_spreadsheets_write_is_read(tmp_path):
    """German Excel's semicolons, byte order mark, empty rows and columns; pandas' row numbers."""
    loras = [{"path": "a.pt", "scale": 0.5}, {"path": "b.pt", "scale": 1.0}]
    row = {"name": "x", "prompt": "a cat; a dog, too", "loras": loras, "seeds": [1, 2]}
    expected = plan(read(str(write(tmp_path, "jsonl", [SHARED | row]))))
    for delimiter in ",;\t":
        write_csv(tmp_path / "plain.csv", [SHARED | row], delimiter)
        header, line = (tmp_path / "plain.csv").read_text().splitlines(keepends=True)
        blank = delimiter * 8 + "\r\n"
        text = header.replace("\n", f"{delimiter}{delimiter} \n") + blank + line.replace("\n", blank) + f" {blank}\n"
        (tmp_path / "excel.csv").write_text(text, "utf-8-sig", newline="")
        assert plan(read(str(tmp_path / "excel.csv"))) == expected
    write(tmp_path, "parquet", [SHARED | row | {"__index_level_0__": 7}])
    assert plan(read(str(tmp_path / "table.parquet"))) == expected


def test_a_file_s_path_alone_will_do(tmp_path):
    entry = {"name": "x", "loras": ["a.pt", {"path": "b.pt", "scale": 0.5}], "motion_loras": ["c.pt"]}
    entry |= {"domain_adapter": "d.pt", "embeddings": ["e.pt"], "prompt": "a"}
    found = read(str(write(tmp_path, "jsonl", [SHARED | entry]))).entries[0]
    told = [(file.uri, file.scale) for file in scaled_loras(found)]
    assert told == [("d.pt", 1.0), ("a.pt", 1.0), ("b.pt", 0.5), ("c.pt", 1.0)]
    assert found.embeddings[0].path == "e.pt"


def test_blanks_around_a_column_s_name_are_no_part_of_it(tmp_path):
    (tmp_path / "t.csv").write_text(" name , prompt\t,base ,motion_module \na,b,c,d\n")
    (item,) = plan(read(str(tmp_path / "t.csv"))).items
    assert (item.entry, item.prompt) == ("a", "b")


def test_given_settings_of_alike_rows_are_their_own(tmp_path):
    table = [{"name": "x", "prompt": "a", "width": 64}, {"name": "x", "prompt": "b"}]
    content = SHARED | {"width": 128, "entries_uri": write(tmp_path, "csv", table).name}
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(content))
    assert [item.width for item in plan(read(str(tmp_path / "catalog.yaml"))).items] == [64, 128]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "name,promt\na,b\n", "t.csv: unknown column 'promt', did you mean 'prompt'?"),
        ("t.csv", "name,xyzzy\na,b\n", "t.csv: unknown column 'xyzzy', known here: prompt, "),
        ("t.csv", "name,prompt,name\na,b,c\n", "t.csv: several columns are named 'name'"),
        ("t.csv", "name,prompt\na,b,c\n", "t.csv, line 2 has 3 cells for 2 columns: put a text with the delimiter in"),
        ("t.csv", 'name,prompt\na,"b\n', "t.csv, line 2: no CSV in UTF-8: unexpected end of data"),
        ("t.csv", "name,prompt\na,\udcff\n", "t.csv, line 2: no CSV in UTF-8: "),
        ("t.csv", "name,prompt,width\na,b,4\n", "t.csv, line 2, column 'width': Input should be greater than or equal"),
        ("t.csv", "name,prompt\n\n,b\n", "t.csv, line 3, column 'name': Field required"),
        ("t.csv", "name,loras\na,[1]\n", "t.csv, line 2, column 'loras' (0): a mapping is needed (got 1)"),
        ("t.csv", "name,loras\na,[1\n", "t.csv, line 2, column 'loras': Expecting ',' delimiter"),
        ("t.csv", "name,context\na,16:4\n", "t.csv, line 2, column 'context': Extra data"),
        (
            "t.csv",
            "name,loras\na,b.pt:nan\n",
            "t.csv, line 2, column 'loras' (0.scale): Input should be a finite number",
        ),
        ("t.csv", 'name,prompts\na,"[""b"""\n', "t.csv, line 2, column 'prompts': Expecting ',' delimiter"),
        ("t.csv", "name,steps\na,b\n", "t.csv: unknown column 'steps', did you mean 'num_inference_steps'?"),
        ("t.csv", "name,seeds\na,[]\n", "t.csv, line 2, column 'seeds': at least one is needed"),
        ("t.csv", "name;fps\na;7,5\n", "t.csv, line 2, column 'fps': Input should be a valid number, unable to parse"),
        ("t.csv", "name,seeds\na,1;x\n", "t.csv, line 2, column 'seeds' (1): Input should be a valid integer"),
        ("t.csv", "name,sampler\na,ddmi\n", "t.csv, line 2, column 'sampler': Input should be 'ddim', 'euler', "),
        ("t.csv", "name,prompt,width\na,b,c\na,b,d\n", "(got 'c'); "),
        (
            "t.csv",
            "name,prompt\na,b\n",
            "t.csv has no columns base and motion_module: add what is missing, or name the ",
        ),
        ("t.csv", "name,prompt,base\na,b,c/d\n", "t.csv has no column motion_module: add what is missing"),
        ("t.csv", "", "t.csv has no rows"),
        ("t.jsonl", "{}\n[1]\n", "t.jsonl, line 2: a JSON object is needed, not [1]"),
        ("t.jsonl", '{"name": "a"\n', "t.jsonl, line 1: no JSON: Expecting ',' delimiter"),
        (
            "t.jsonl",
            '[\n{"name": "a"}\n]',
            "t.jsonl, line 1: no JSON: Expecting value: line 2 column 1 (char 2); each line needs",
        ),
        (
            "t.jsonl",
            '{"prompt": "\\ud83d"}\n',
            "t.jsonl, line 1, column 'prompt': 'utf-8' codec can't encode character",
        ),
        (
            "t.jsonl",
            '{"name": "a", "context": 16}\n',
            "t.jsonl, line 1, column 'context': a mapping is needed (got 16)",
        ),
        (
            "t.jsonl",
            '{"name": "a", "context": {"lenght": 1}}\n',
            "column 'context' (lenght): there is no such field (got 1)",
        ),
        (
            "t.xlsx",
            "PK",
            "t.xlsx is no catalog: a YAML file or a table (.csv, .tsv, .jsonl, .ndjson, .parquet) is needed",
        ),
        ("t.jsonl", '{"name": "a", "seed": 1}\n', "t.jsonl, line 1: unknown column 'seed', did you mean 'seeds'?"),
        ("t.jsonl", '{"name": 5, "prompt": "b"}\n', "t.jsonl, line 1, column 'name': Input should be a valid string"),
        ("t.jsonl", '{"name": "a", "prompt": 5}\n', "t.jsonl, line 1, column 'prompt': Input should be a valid string"),
        ("t.jsonl", '{"name": "a", "prompts": 5}\n', "t.jsonl, line 1, column 'prompts': a list is needed (got 5)"),
        ("t.parquet", "PAR1", "t.parquet is no Parquet file: "),
    ],
)
def test_a_table_that_cannot_be_read_is_told_with_its_place(tmp_path, name, text, told):
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(UsageError) as caught:
        read(str(tmp_path / name))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_many_bad_cells_twenty_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("name,prompt,width\n" + "a,b,c\n" * 1000)
    with pytest.raises(UsageError, match=r"line 21, column 'width'.*; and perhaps more$") as caught:
        read(str(tmp_path / "t.csv"))
    assert str(caught.value).count("column 'width'") == 20


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "catalog.yaml has no entries: list them as `entries`, or in a table as `entries_uri`"),
        ({"entries_uri": "no.csv"}, "there is no file {folder}/no.csv"),
        (
            {"entries_uri": "no.txt"},
            "no.txt is no table: a name that ends in .csv, .tsv, .jsonl, .ndjson, .parquet is ",
        ),
        ({"prompts_uri": "no.txt", "entries": [{"name": "a"}]}, "there is no file {folder}/no.txt"),
        ({"entry_uri": "no.csv"}, "unknown field 'entry_uri', did you mean 'entries_uri'?"),
        ({"prompts": "a cat", "entries": [{"name": "a"}]}, "catalog.yaml: prompts: a list is needed (got 'a cat')"),
        (
            {"prompts": [{"a cat": "black"}], "entries": [{"name": "a"}]},
            "prompts.0: a text is needed: put it into quotes",
        ),
        ({"prompts": [True], "entries": [{"name": "a"}]}, "prompts.0: a text is needed: put it into quotes (got True)"),
        ({"prompts": [{"prompt": "x", "size": 3}]}, "unknown field 'prompts.0.size', known here: negative_prompt, "),
        (
            {"entries": [{"name": "a", "prompt": "x"}]},
            "unknown field 'entries.0.prompt', did you mean 'entries.0.prompts'?",
        ),
        ({"entries": {"a": {}}}, "catalog.yaml: entries: a list is needed (got "),
        (
            {"entries": [{"name": "a", "promts": ["x"]}]},
            "unknown field 'entries.0.promts', did you mean 'entries.0.prompts'?",
        ),
    ],
)
def test_a_yaml_that_cannot_be_read_is_told(tmp_path, content, told):
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(SHARED | content))
    with pytest.raises(UsageError) as caught:
        read(str(tmp_path / "catalog.yaml"))
    assert told.format(folder=tmp_path) in str(caught.value)


def test_there_is_no_such_catalog(tmp_path):
    for name in ("no.yaml", "no.csv"):
        with pytest.raises(UsageError, match=rf"there is no (config )?file {tmp_path}/{name}"):
            read(str(tmp_path / name))
