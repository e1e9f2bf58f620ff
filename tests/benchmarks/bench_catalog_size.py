"""What 100,000 items cost before the first is rendered: reading, checking, hashing and expanding a catalog.

    python -m tests.benchmarks.bench_catalog_size [number of items]

200 models (a tiny base with a LoRA each) with 500 prompts: as a YAML whose prompts are for every model, as a CSV, JSONL
and Parquet of a row an item, and as a CSV whose rows are all models of their own. Each is done in a process of its own;
seconds by stage, `cpu` being those that a busy machine does not stretch, and the most memory that the process ever had.
Files are hashed in `first` and remembered in `again`.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file

NUM_MODELS = 200
CHILD = """
import json, sys, time
begun = start = time.perf_counter()
import ray
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.checks import catalog as checks
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.remembered_hashes import hash_catalog_files
from animatediff.rendering.checks import catalog as checks
seconds = {}
def lap(name, start=[start]):
    now = time.perf_counter()
    seconds[name], start[0] = round(now - start[0], 2), now
lap("import")
catalog = catalog_files.read(sys.argv[1]); lap("read")
problems = checks.check(catalog); lap("check")
hashes = hash_catalog_files(catalog, sys.argv[2]); lap("hash")
plan = expand(catalog, problems=problems, content_hash=hashes); lap("expand")
if len(sys.argv) > 3:
    from pipelines.stages.animate.launch import pending_items
    from animatediff.rendering.results.ledger import Ledger
    finished = Ledger(sys.argv[3], {item.digest for item in plan.items}).finished(("mp4",)); lap("scan")
    seconds["pending"] = len(pending_items(plan, finished)); lap("plan")
status = open("/proc/self/status").read()
seconds["all"] = round(time.perf_counter() - begun, 2)
seconds["cpu"] = round(time.process_time(), 2)
megabytes = int(status.split("VmHWM:")[1].split()[0]) // 1024
print(json.dumps({"items": len(plan.items), "models": len(plan.models), "invalid": len(plan.invalid),
                  "MB": megabytes, **seconds}))
"""


def weights(folder):
    """A base, a motion module and LoRAs that fit, all tiny."""
    from animatediff.models.config import MotionConfig
    from animatediff.models.motion_unet import MotionModules
    from animatediff.weights import motion_modules
    from animatediff.weights.base import load_unet
    from tests.support_base import build_base

    unet = load_unet(str(build_base(folder / "base")))
    motion_modules.write(str(folder / "motion.safetensors"), MotionModules.for_base(unet, MotionConfig()))
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    for number in range(NUM_MODELS):
        down, up = torch.full((2, 32), float(number)), torch.ones(32, 2)
        save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, folder / f"lora_{number}.safetensors")


def rows(folder, num_items, *, own_names):
    for number in range(num_items):
        model = number % NUM_MODELS
        yield {
            "name": f"model-{number if own_names else model}",
            "base": str(folder / "base"),
            "motion_module": str(folder / "motion.safetensors"),
            "loras": f"{folder}/lora_{model}.safetensors:0.8",
            "prompt": f"prompt {number // NUM_MODELS}, a small blue circle bouncing on a white background",
            "negative_prompt": "blurry, grey",
            "seeds": str(number % 1000),
            "width": 64,
            "height": 64,
        }


def write_catalogs(folder, num_items):
    """The same content in every form, but for the last."""
    tables = {name: list(rows(folder, num_items, own_names=name == "names.csv")) for name in ("rows.csv", "names.csv")}
    for name, table in tables.items():
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    pq.write_table(pa.Table.from_pylist(tables["rows.csv"]), folder / "rows.parquet")
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in tables["rows.csv"]))
    entries = [
        {"name": f"model-{i}", "loras": [{"path": f"{folder}/lora_{i}.safetensors", "scale": 0.8}]}
        for i in range(NUM_MODELS)
    ]
    first = tables["rows.csv"][0]
    shared = {name: first[name] for name in ("base", "motion_module", "negative_prompt", "width", "height")}
    prompts = [row["prompt"] for row in tables["rows.csv"][::NUM_MODELS]]
    (folder / "matrix.yaml").write_text(yaml.safe_dump(shared | {"prompts": prompts, "entries": entries}))
    return ["matrix.yaml", "rows.csv", "rows.jsonl", "rows.parquet", "names.csv"]


def write_output(folder, catalog):
    """The output folder of a catalog that is rendered, without the clips' content; the table is written last."""
    from animatediff.rendering.catalog.catalog import expand
    from animatediff.rendering.catalog.reading import catalog_files
    from animatediff.rendering.results.ledger import Ledger, item_uri, make_result
    from animatediff.rendering.results.table import write_table

    plan, output = expand(catalog_files.read(str(catalog))), folder / "output"
    for name in ("clips", "items"):
        (output / name).mkdir(parents=True)
    for item in plan.items:
        files = {kind: f"clips/{item.digest[:16]}.{kind}" for kind in ("mp4", "gif", "poster")}
        for path in files.values():
            (output / path).touch()
        values = {"files": files, "sha256": dict.fromkeys(files, item.digest), "seconds": {"unet": 12.5, "vae": 1.5}}
        hashes = plan.file_hashes[item.model]
        result = make_result(item, status="ok", model_hashes=hashes, versions={"torch": torch.__version__}, **values)
        Path(item_uri(str(output), item.digest)).write_text(result.model_dump_json())
    time.sleep(3)  # the ledger trusts a table only if it is clearly newer
    write_table(str(output), Ledger(str(output), {item.digest for item in plan.items}).results(plan.items, {}))
    return output


def measure(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main():
    num_items = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights(folder)
        for catalog in write_catalogs(folder, num_items):
            for run in ("first", "again"):
                print(catalog, run, measure(folder / catalog, folder / f"{catalog}.hashes.json"), flush=True)
        matrix = folder / "matrix.yaml"
        output = write_output(folder, matrix)
        print("resume, by the table", measure(matrix, f"{matrix}.hashes.json", output), flush=True)
        (output / "results.parquet").unlink()
        print("resume, without it", measure(matrix, f"{matrix}.hashes.json", output), flush=True)


if __name__ == "__main__":
    main()
