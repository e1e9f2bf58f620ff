"""`kill -9` of the animate job and its actors, then the same command again: every clip once, and the same table.

`test_animate_controls.py` kills one of each kind; here it is many of them.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from animatediff import storage
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.results.ledger import read_results
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines import animate
from pipelines.settings import AnimateConfig
from tests.integration.conftest import hashes
from tests.integration.processes import Job
from tests.support import write_yaml
from tests.support_base import build_base

pytestmark = pytest.mark.ray
# An actor comes last: nobody but its own job is there then to render what its slice had left.
KINDS = ("driver", "dispatcher", "render actor")
LOST = "the process that shares out the work was lost"


def write_catalog(folder, num_prompts, num_frames):
    """Three models with the same prompts; a clip of 16 frames takes about a second."""
    base = build_base(folder / "base")
    motion = MotionModules.for_base(load_unet(str(base)), MotionConfig())
    motion_modules.write(str(folder / "motion.safetensors"), motion)
    entries = [{"name": "bare"}]
    for seed in (1, 2):
        entries.append({"name": f"other-{seed}", "checkpoint": str(build_base(folder / f"other-{seed}", seed=seed))})
    content = {
        "base": str(base),
        "motion_module": str(folder / "motion.safetensors"),
        "width": 64,
        "height": 64,
        "num_frames": num_frames,
        "num_inference_steps": 6,
        "prompts": [f"a red circle, number {i}" for i in range(num_prompts)],
        "entries": entries,
    }
    return write_yaml(folder / "catalog.yaml", content)


def committed(output):
    """The content and the time of writing of all items that are committed."""
    found = {}
    for path in (Path(output) / "items").glob("*.json"):
        found[path.name] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def run_and_kill(job, output, num_kills, rng, deadline_s, log):
    """Kill drivers, dispatchers and actors in turn, at random times after an item is new, and let the job end.

    What is committed must stay as it is whenever one looks: an item that is rendered twice is written twice.

    Returns:
        The job's exit code, and how many items were committed before the last kill.
    """
    done, seen, num_new, num_before = [], {}, 0, 0
    deadline = time.monotonic() + deadline_s
    job.start()
    while len(done) < num_kills or job.is_running():
        assert time.monotonic() < deadline, done
        now = committed(output)
        assert seen.items() <= now.items()
        num_new, seen = num_new + len(now) - len(seen), now
        if len(done) < num_kills and not job.is_running():
            # 0 would say that more items are needed. A lost actor or dispatcher ends nothing.
            assert job.code() == -signal.SIGKILL, done
            age_drafts(output)
            job.start()
        if log.read_text().count(LOST) < done.count("dispatcher"):
            num_new = 0  # of workers that end what they have begun; then there are others with tickets of their own
        kind = KINDS[len(done) % len(KINDS)]
        if len(done) < num_kills and num_new and job.of_kind(kind):
            time.sleep(rng.uniform(0, 0.3))
            if job.kill_one(kind):
                done.append(kind)
                num_new, num_before = 0, len(seen)
        time.sleep(0.02)
    code = job.code()
    assert seen.items() <= committed(output).items()
    age_drafts(output)
    storage.delete_drafts(str(output), older_than_s=3600)
    return code, num_before


def age_drafts(output):
    """What killed writers left is deleted when it is old; until then another job may be writing it."""
    for draft in output.rglob(".*.tmp"):
        os.utime(draft, (0, 0))


def rows(output):
    """The table without what differs from run to run."""
    return [result.model_dump(exclude={"seconds", "attempts"}) for result in read_results(str(output))]


def run_with_kills(tmp_path, *, num_prompts, num_frames, num_kills, deadline_s):
    catalog = write_catalog(tmp_path, num_prompts, num_frames)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    config = AnimateConfig(catalog_uri=catalog, output_uri=str(straight), num_actors=1, formats=("mp4",))
    animate.main(config)
    more = config.model_copy(update={"output_uri": str(killed), "num_actors": 2})
    path = write_yaml(tmp_path / "killed.yaml", more.model_dump(mode="json"))
    with (tmp_path / "log").open("w") as log, Job("animate", path, log) as job:
        code, num_before = run_and_kill(job, killed, num_kills, random.Random(0), deadline_s, tmp_path / "log")
        assert code == 0, (tmp_path / "log").read_text()[-3000:]
    assert (tmp_path / "log").read_text().count(LOST) == num_kills // len(KINDS)
    assert len(committed(killed)) == 3 * num_prompts
    assert rows(killed) == rows(straight)
    assert hashes(killed / "clips") == hashes(straight / "clips")
    return job.runs, num_before


@pytest.mark.slow
def test_twenty_four_kills_in_a_hundred_and_twenty_items(workers_here, tmp_path):
    runs, num_before = run_with_kills(tmp_path, num_prompts=40, num_frames=16, num_kills=24, deadline_s=2700)
    print(f"24 kills, {runs} runs of the command, {num_before} of 120 items were committed before the last")  # noqa: T201
