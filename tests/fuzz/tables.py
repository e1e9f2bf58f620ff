"""Tables of sources and of catalogs, tars, and YAML files, as the drivers of ingest and animate read them."""

import io
import json
import random
import tarfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from animatediff.config import load
from animatediff.data.ingest.plan import Planner
from animatediff.data.quarantine import VideoError
from animatediff.data.sources.fetching.fetch import fetch
from animatediff.data.sources.reader import read_source
from animatediff.data.sources.spec import SourceConfig
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.catalog.reading.catalog_files import CatalogFile
from tests.fuzz.harness import Subject
from tests.fuzz.mutations import mutate_bytes, mutate_tree

_ROWS = [{"videoid": i, "name": f"a cat {i}", "page_dir": f"{i:03}", "contentUrl": f"u/{i}.mp4"} for i in range(9)]
_CATALOG = {
    "base": "/nowhere/base",
    "motion_module": "/nowhere/mm.safetensors",
    "seeds": [0, 1],
    "prompts": ["a cat", {"prompt": "a dog", "guidance_scale": 7.5}],
    "entries": [{"name": "a", "checkpoint": "/nowhere/a.ckpt"}, {"name": "b", "loras": [{"path": "b", "scale": 0.5}]}],
}
_TRICKS = (
    *("[" * 30_000, "{a: " * 3000, "&a [*a]", "a: &a [x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]"),
    *(
        "9" * 5000,
        "!!python/object/apply:os.system [ls]",
        "? [a]\n: b",
        "2001-99-99",
        "%YAML 9.9\n---\n",
        "\t- a",
        "<<: *x",
    ),
    *("=1+1", '"', "\0end\0", "\r", "," * 5000, "file:///dev/zero", "zip://a::http://u:p@h/x", "x" * 300_000, "\ufeff"),
)


@cache
def _seeds() -> dict[str, bytes]:
    names = list(_ROWS[0])
    csv = "\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in _ROWS)])
    rows = [{"id": f"v{i}", "video": f"{i}.mp4", "caption": f"a dog {i}"} for i in range(9)]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet, row_group_size=4)
    entries = [
        {"name": f"e{i}", "base": "/n/b", "motion_module": "/n/m", "prompt": "a cat", "seeds": [i]} for i in range(4)
    ]
    return {
        "webvid.csv": csv.encode(),
        "rows.tsv": csv.replace(",", "\t").encode("utf-16"),
        "rows.jsonl": "\n".join(map(json.dumps, rows)).encode(),
        "rows.parquet": parquet.getvalue(),
        "samples.tar": _tar(rows),
        "catalog.yaml": json.dumps(_CATALOG, indent=1).encode(),
        "block.yaml": _YAML,
        "entries.jsonl": "\n".join(map(json.dumps, entries)).encode(),
        "entries.csv": ("name,base,motion_module,prompt,seeds\n" + "a,/n/b,/n/m,a cat,1\n" * 3).encode(),
    }


_YAML = b"""base: &b /nowhere/base
motion_module: /nowhere/mm.safetensors
prompts:
  - a cat
  - prompt: "a dog"
    seeds: [1, 2]
entries:
  - name: a
    checkpoint: *b
    loras: [{path: x, scale: 0.5}]
"""


def _tar(rows: list[dict[str, Any]], rng: random.Random | None = None) -> bytes:
    """Samples; with `rng` one header says something else, and its checksum is right."""
    buffer = io.BytesIO()
    spoiled = rng.randrange(2 * len(rows)) if rng else -1
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, row in enumerate(rows):
            for place, (suffix, data) in enumerate(((".mp4", b"v" * 700), (".json", json.dumps(row).encode()))):
                info = tarfile.TarInfo(f"{row['id']}{suffix}")
                info.size = len(data)
                if rng and spoiled == 2 * number + place:
                    _spoil_header(rng, info)
                tar.addfile(info, io.BytesIO(data.ljust(info.size, b"\0")) if info.size < 1 << 20 else None)
    return buffer.getvalue()


def _spoil_header(rng: random.Random, info: tarfile.TarInfo) -> None:
    what = rng.randrange(5)
    if what == 0:
        info.size = rng.choice((0, 1, 511, 513, 8 << 30, 1 << 40))
    elif what == 1:
        info.type = rng.choice((tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE))
        info.linkname = rng.choice(("", info.name, "../../../etc/passwd", "v1.mp4"))
    elif what == 2:
        info.name = rng.choice(
            ("../x.mp4", "/etc/x.mp4", "", "x" * 3000 + ".mp4", "a\0b.mp4", ".mp4", "a/b/../../c.mp4")
        )
    elif what == 3:
        info.pax_headers = {rng.choice(("size", "path", "GNU.sparse.size")): rng.choice(("-1", "9" * 400, "x", "\0"))}
    else:
        info.mtime = rng.choice((-1, 1 << 60, 0))


def mutate(rng: random.Random, name: str, seeds: dict[str, bytes]) -> bytes:
    data = seeds[name]
    what = rng.random()
    if what < 0.35:
        return mutate_bytes(rng, data, list(seeds.values()))
    if name.endswith(".parquet"):
        return _parquet(rng)
    if name.endswith(".tar"):
        return _tar(json.loads(b"[" + seeds["rows.jsonl"].replace(b"\n", b",") + b"]"), rng)
    if name.endswith(("catalog.yaml", ".jsonl")) and what < 0.7:
        lines = data.decode().split("\n") if name.endswith(".jsonl") else [data.decode()]
        place = rng.randrange(len(lines))
        lines[place] = json.dumps(mutate_tree(rng, json.loads(lines[place])))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    encoding = "utf-16" if name.endswith(".tsv") else "utf-8"
    text = data.decode(encoding)
    place = rng.choice([i for i, letter in enumerate(text) if not letter.isalnum()])
    trick = rng.choice(_TRICKS)
    text = rng.choice((text[:place] + trick + text[place:], text[: place + 1] + trick + text[place + 1 + len(trick) :]))
    return text.encode(encoding, "surrogatepass")


def _parquet(rng: random.Random) -> bytes:
    """Columns of other types, nulls, dictionaries of texts that are long when they are written out."""
    ids = [f"v{i}" for i in range(50)]
    columns: dict[str, pa.Array] = {"id": pa.array(ids), "video": pa.array(ids), "caption": pa.array(ids)}
    odd = (
        lambda: pa.array([None] * 50, pa.null()),
        lambda: pa.array([b"\xff\xfe"] * 50, pa.binary()),
        lambda: pa.array([[1, 2]] * 50),
        lambda: pa.array([{"a": "x"}] * 50),
        lambda: pa.array([float("nan")] * 50),
        lambda: pa.array(range(50), pa.timestamp("ns")),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * 50, pa.int32()), pa.array(["x" * 500_000])),
        lambda: pa.array(["x" * 200_000] * 50),
        lambda: pa.array(["a"] * 50, pa.large_string()),
        lambda: pa.array([10**30] * 50, pa.decimal128(38, 0)),
    )
    for name in rng.sample(sorted(columns), rng.choice((1, 2))):
        columns[name] = rng.choice(odd)()
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=rng.choice((1, 50)))
    return buffer.getvalue()


def _run(rng: random.Random, folder: Path) -> str:
    seeds = _seeds()
    name = rng.choice(sorted(seeds))
    path = folder / name
    for row in _ROWS:
        video = folder / "videos" / str(row["page_dir"]) / f"{row['videoid']}.mp4"
        video.parent.mkdir(parents=True)
        video.touch()
    path.write_bytes(mutate(rng, name, seeds))
    if name.endswith(".yaml"):
        load(CatalogFile, str(path))
    elif name.startswith("entries"):
        catalog_files.read(str(path))
    else:
        return _planned(str(path), "webdataset" if name.endswith(".tar") else "auto")
    return "read"


def _planned(uri: str, kind: Any) -> str:
    planner = Planner(None, dataset_key="key", videos_per_unit=4)
    for batch in read_source(SourceConfig(uri=uri, format=kind)):
        planner.add(batch)
        for video in batch[:3] if kind == "webdataset" else ():
            with suppress(VideoError):
                fetch(video.uri, max_bytes=1 << 20)
    planner.finish()
    return "planned"


def warm() -> None:
    """Make what all cases share before the processes part."""
    _seeds()


TABLES = Subject("tables", _run, deadline_s=20, memory_mb=512)
