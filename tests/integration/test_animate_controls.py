"""Thirty entries in which each control meets each other thing: the same bytes in any order, and after kills."""

import random

import pytest
import torch
from safetensors.torch import save_file

from animatediff.errors import UserError
from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.rendering.catalog.catalog import expand
from animatediff.rendering.catalog.reading import catalog_files
from animatediff.rendering.checks.catalog import check
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from pipelines import animate
from pipelines.settings import AnimateConfig
from tests.integration.conftest import hashes
from tests.integration.processes import Job
from tests.integration.test_animate_kills import KINDS, LOST, committed, rows, run_and_kill
from tests.support import write_yaml
from tests.support_base import build_base
from tests.support_catalog import SHARED, STARTS, build_entries, features_of_entries, pairs, write_catalogs
from tests.support_controls import build_controls

pytestmark = pytest.mark.ray
NUM_INVALID = 5  # each two of the three ways to begin, and the entries named `wrong` and `absent`


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    base = build_base(folder / "base")
    paths = build_controls(folder / "controls", base)
    paths |= {name: str(folder / f"{name}.safetensors") for name in ("motion", "lora")}
    paths |= {"base": str(base), "checkpoint": str(build_base(folder / "other", seed=1))}
    paths["absent"] = str(folder / "absent.png")
    motion = MotionModules.for_base(load_unet(str(base)), MotionConfig())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in motion.named_parameters():
            if "proj_out" in name:
                parameter.normal_(std=0.1, generator=generator)
    motion_modules.write(paths["motion"], motion)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    weights = {
        f"{name}.lora_down.weight": torch.randn(2, 32, generator=generator),
        f"{name}.lora_up.weight": torch.randn(32, 2, generator=generator),
    }
    save_file(weights, paths["lora"])
    return paths


def write(folder, files, entries):
    folder.mkdir()
    shared = SHARED | {"base": files["base"], "motion_module": files["motion"], "negative_prompt": "grey"}
    return write_catalogs(folder, shared, entries)


def run_with_kills(files, folder, num_kills):
    """Straight by one actor from the last entry to the first, and by two actors that are killed: the same results."""
    entries = build_entries(files)
    catalogs = write(folder / "catalogs", files, entries)
    backwards = write(folder / "backwards", files, entries[::-1])["jsonl"]
    of_yaml, *others = (catalog_files.read(catalogs[kind]) for kind in ("yaml", "csv", "jsonl"))
    problems = check(of_yaml)  # the same in each, and it takes seconds to find them
    digests = [[item.digest for item in expand(each, problems=problems).items] for each in (of_yaml, *others)]
    assert digests == digests[:1] * 3
    assert len(set(digests[0])) == len(entries)

    straight, killed = folder / "straight", folder / "killed"
    with pytest.raises(UserError, match=f"{NUM_INVALID} of {len(entries)} items failed"):
        animate.main(
            AnimateConfig(catalog_uri=backwards, output_uri=str(straight), num_actors=1, batch_size=1, formats=("mp4",))
        )
    config = AnimateConfig(
        catalog_uri=catalogs["csv"], output_uri=str(killed), num_actors=2, batch_size=1, formats=("mp4",)
    )
    path, log_path = write_yaml(folder / "killed.yaml", config.model_dump(mode="json")), folder / "log"
    with log_path.open("w") as log, Job("animate", path, log) as job:
        code, _ = run_and_kill(job, killed, num_kills, random.Random(0), 900, log_path)
    said = log_path.read_text()
    assert code == 1, said[-3000:]
    assert f"{NUM_INVALID} of {len(entries)} items failed" in said, said[-3000:]
    assert said.count(LOST) == num_kills // len(KINDS)
    assert len(committed(killed)) == len(entries) - NUM_INVALID
    assert rows(killed) == rows(straight)[::-1]
    assert hashes(killed / "clips") == hashes(straight / "clips")
    return rows(killed)


def errors(found):
    return {row["entry"].partition("-")[2] or row["entry"]: row["error"] for row in found if row["error"]}


def check_results(found):
    ok = [row for row in found if row["status"] == "ok"]
    assert len({row["sha256"]["mp4"] for row in ok}) == len(ok) == len(found) - NUM_INVALID
    told = errors(found)
    assert told.keys() == {"wrong", "absent", *("-".join(two) for two in pairs_of_starts())}
    assert "set one of them to null" in told["init_image-init_video"]
    for start in ("init_image", "init_video"):
        assert f"with {start} it begins from pictures" in told[f"{start}-free_init"]
    assert "controls.0: guess_mode is of ControlNets" in told["wrong"]
    assert "controls.0.pictures: there is no file or folder" in told["absent"]
    assert {row["status"] for row in found if row["error"]} == {"invalid"}


def pairs_of_starts():
    return [features for features in features_of_entries() if len(features) == 2 and set(features) <= set(STARTS)]


def test_each_control_meets_each_other_thing():
    features = features_of_entries()
    names = {name for each in features for name in each}
    assert pairs(features) == pairs([sorted(names)])
    assert {(name,) for name in names} <= set(features)


def test_thirty_entries_with_the_driver_the_dispatcher_and_an_actor_killed(workers_here, files, tmp_path):
    check_results(run_with_kills(files, tmp_path, num_kills=len(KINDS)))


@pytest.mark.slow
def test_thirty_entries_with_nine_kills(workers_here, files, tmp_path):
    check_results(run_with_kills(files, tmp_path, num_kills=9))
