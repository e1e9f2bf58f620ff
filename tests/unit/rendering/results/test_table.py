"""The table of results: its columns are the fields of a result, and tables of earlier versions go on being read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from animatediff import storage
from animatediff.diffusion.context import Context
from animatediff.rendering.catalog.item import Item
from animatediff.rendering.results import table as results_table
from animatediff.rendering.results.ledger import item_uri, make_result, read_item, read_results, write_item
from animatediff.rendering.results.result import Result
from animatediff.rendering.results.table import parse, to_result, write_table
from animatediff.storage import checked_json

STRINGS, NUMBERS = pa.map_(pa.string(), pa.string()), pa.map_(pa.string(), pa.float64())
# As version 0.1 wrote them: people's own queries read these.
COLUMNS = {
    **dict.fromkeys(("digest", "entry", "model", "prompt", "negative_prompt"), pa.string()),
    **dict.fromkeys(("seed", "priority", "num_inference_steps", "clip_skip"), pa.int64()),
    **dict.fromkeys(("sampler", "timestep_spacing"), pa.string()),
    **dict.fromkeys(("guidance_scale", "guidance_rescale"), pa.float64()),
    **dict.fromkeys(("num_frames", "width", "height"), pa.int64()),
    "fps": pa.float64(),
    "context": pa.struct([("length", pa.int64()), ("overlap", pa.int64())]),
    "loop": pa.bool_(),
    **dict.fromkeys(("status", "error", "warning"), pa.string()),
    "attempts": pa.int64(),
    "uri": pa.string(),
    **dict.fromkeys(("files", "sha256", "model_hashes", "versions"), STRINGS),
    "num_bytes": pa.map_(pa.string(), pa.int64()),
    "seconds": NUMBERS,
}
# Settings that were added since.
NEWER = {
    "preset": pa.string(),
    "guidance_interval": pa.struct([("start", pa.float64()), ("end", pa.float64())]),
    "guidance_after_every": pa.int64(),
    "guidance_every": pa.int64(),
    "deep_cache": pa.struct([("every", pa.int64()), ("layers", pa.int64())]),
    "prompt_syntax": pa.string(),
    "travel": pa.struct([("interpolation", pa.string()), ("dwell", pa.float64())]),
    **dict.fromkeys(("controls", "images", "image_encoder", "init_image", "init_video"), pa.string()),
    "strength": pa.float64(),
    "pia": pa.struct([("picture", pa.string()), ("frame", pa.int64()), ("motion", pa.string())]),
    "free_init": pa.struct(
        {
            "iterations": pa.int64(),
            "filter": pa.string(),
            "order": pa.int64(),
            "spatial": pa.float64(),
            "temporal": pa.float64(),
            "fast": pa.bool_(),
        }
    ),
    "second_pass": pa.struct(
        {"scale": pa.float64(), "strength": pa.float64(), "num_inference_steps": pa.int64(), "of": pa.string()}
    ),
}
ONE_SCORER = {"scores": NUMBERS, "scored_by": pa.string(), "score_error": pa.string()}
SCORED = {"my.pkg:s": {"x": 1.0, "y": -2.5}, "other:s": {"x": 3.0}, "third:s": {}}


def result(number=0, **changes):
    item = Item(digest=f"{number:064d}", entry="one", model="m", prompt="a cat", seed=number, num_frames=8)
    values = {"status": "ok", "files": {"mp4": "clips/a.mp4"}, "seconds": {"unet": 1.5}, "attempts": 1} | changes
    return make_result(item, **values)


def read(folder):
    return [to_result(row) for row in parse((folder / "results.parquet").read_bytes()).to_pylist()]


def test_columns_are_what_they_were_and_those_of_the_scorers(tmp_path):
    write_table(str(tmp_path), [result()])
    schema = pq.read_schema(tmp_path / "results.parquet")
    new = {"scores": pa.map_(pa.string(), NUMBERS), "score_errors": STRINGS}
    assert {field.name: field.type for field in schema} == COLUMNS | NEWER | new
    assert schema.names[0] == "digest"
    assert set(schema.names) == Result.model_fields.keys() | {"uri"}


def test_a_result_comes_back_as_it_was(tmp_path):
    rows = [
        result(0, scores=SCORED, score_errors={"third:s": "no face"}, num_bytes={"mp4": 7}),
        Result.model_validate(
            result(1).model_dump() | {"context": Context(), "loop": True, "status": "failed", "error": "broken"}
        ),
        Result.model_validate(
            result(2).model_dump()
            | {
                "controls": [{"net": "n.pt", "pictures": ["a.png", "b.png"], "frames": [0, -1], "scale": {0: 1, 7: 0}}],
                "images": [{"adapter": "i.bin", "pictures": "a.png"}],
                "image_encoder": "encoder",
            }
        ),
    ]
    write_table(str(tmp_path), rows)
    assert [found.model_dump() for found in read(tmp_path)] == [row.model_dump() for row in rows]


def test_a_field_that_is_added_is_a_column(tmp_path):
    class Longer(Result):
        likes: int | None = None
        places: dict[str, dict[str, int]]

    kinds = {name: results_table._arrow_type(field.annotation) for name, field in Longer.model_fields.items()}
    assert kinds["likes"] == pa.int64()
    assert kinds["places"] == pa.map_(pa.string(), pa.map_(pa.string(), pa.int64()))
    assert kinds["sampler"] == pa.string()


@pytest.fixture
def earlier(tmp_path):
    """What a version wrote that kept the scores of one scorer: a scored clip, one that it could not score, one more."""
    rows = [result(number).model_dump() | {"uri": None} for number in range(3)]
    rows[0] |= {"scores": {"x": 1.0}, "scored_by": "my:s", "score_error": None}
    rows[1] |= {"scores": {}, "scored_by": "my:s", "score_error": "no face"}
    rows[2] |= {"scores": {}, "scored_by": None, "score_error": "no scores: its worker died"}  # to be tried again
    schema = pa.schema(list((COLUMNS | ONE_SCORER).items()))
    cells = [
        {
            field.name: list(row[field.name].items()) if pa.types.is_map(field.type) else row[field.name]
            for field in schema
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(cells, schema=schema), tmp_path / "results.parquet")
    return tmp_path, rows


SCORES = [({"my:s": {"x": 1.0}}, {}), ({"my:s": {}}, {"my:s": "no face"}), ({}, {})]


def test_a_table_with_one_scorers_scores_is_read(earlier):
    folder, _ = earlier
    assert [(found.scores, found.score_errors) for found in read(folder)] == SCORES
    assert [found.num_frames for found in read(folder)] == [8] * 3


def test_a_second_scorer_is_put_beside_what_an_earlier_version_wrote(earlier):
    folder, rows = earlier
    storage.write_bytes(str(folder / "clips" / "a.mp4"), b"clip")
    for row in rows:
        content = {name: value for name, value in row.items() if name not in ("uri", "score_errors")}
        storage.write_bytes(item_uri(str(folder), row["digest"]), checked_json.dump(content))
    assert [(found.scores, found.score_errors) for found in read_results(str(folder))] == SCORES
    first = read_item(str(folder), rows[0]["digest"])
    assert first.scores == {"my:s": {"x": 1.0}}
    write_item(str(folder), first.model_copy(update={"scores": first.scores | {"other:s": {"x": 2.0}}}))
    write_table(str(folder), read_results(str(folder)))
    assert read(folder)[0].scores == {"my:s": {"x": 1.0}, "other:s": {"x": 2.0}}
