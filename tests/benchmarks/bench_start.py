"""What a worker spends before its first clip is there, and what importing costs each kind of process.

    python -m tests.benchmarks.bench_start

Each is done in a process of its own, with what `pipelines.imports` spares and without it, in turn; medians of the
processor's seconds, which a busy machine stretches less than the clock's. The clip is one of the sprite world with the
shipped base, in 4 steps.
"""

import json
import os
import statistics
import subprocess
import sys

ROUNDS = 5
MODULES = {
    "animate's driver": "pipelines.stages.animate.driver",
    "animate's worker": "pipelines.stages.animate.worker",
    "ingest's encoder": "pipelines.stages.ingest.encode",
    "training's worker": "pipelines.stages.train.worker",
    "torch alone": "torch",
}
# `plain` imports as Python does: nothing is deferred, and garbage is looked for.
HEAD = """
import json, sys, time
from pipelines import imports
if sys.argv[1] == "plain":
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, imports._Finder)]
"""
IMPORT = """
import importlib
start = time.process_time()
importlib.import_module(sys.argv[2])
print(json.dumps({"import": time.process_time() - start, "modules": len(sys.modules)}))
"""
CLIP = """
seconds, start = {}, [time.process_time()]
def lap(name):
    now = time.process_time()
    seconds[name], start[0] = now - start[0], now
from pipelines.stages.animate.worker import RenderSlices
lap("import")
import torch
from animatediff.rendering.animator import Animator
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.outputs import encode_clip
from animatediff.sprites import shipped
catalog = catalog_files.Catalog.model_validate({
    "base": str(shipped.BASE), "motion_module": str(shipped.MOTION_MODULE), "width": 64, "height": 64, "num_frames": 16,
    "num_inference_steps": 4, "guidance_scale": 1.0, "prompts": ["a large red circle moving left"],
    "entries": [{"name": "base"}],
})
plan = expand(catalog)
(item,), (model,) = plan.items, plan.models.values()
torch.set_num_threads(1)
start[0] = time.process_time()
animator = Animator.for_model(model, device="cpu")
animator.load(model)
lap("base")
frames = animator.render(item)
lap("clip")
list(encode_clip(("mp4", "gif"), frames, fps=8))
lap("files")
print(json.dumps(seconds))
"""


def measured(way, script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script, way, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(name, script, *arguments):
    """Print the medians of both ways, and their ratio."""
    rounds = {"plain": [], "spared": []}
    for _ in range(ROUNDS):
        for way, found in rounds.items():
            found.append(measured(way, script, *arguments))
    medians = {
        way: {stage: statistics.median(each[stage] for each in found) for stage in found[0]}
        for way, found in rounds.items()
    }
    totals = {way: sum(taken for stage, taken in found.items() if stage != "modules") for way, found in medians.items()}
    for way, found in medians.items():
        stages = ", ".join(f"{stage} {taken:.{0 if stage == 'modules' else 2}f}" for stage, taken in found.items())
        print(f"{name}, {way}: {totals[way]:.2f} s ({stages})")
    print(f"{name}: {totals['spared'] / totals['plain']:.2f} of the time", flush=True)


def main():
    for name, module in MODULES.items():
        compare(name, IMPORT, module)
    compare("until a worker's first clip", CLIP)


if __name__ == "__main__":
    main()
