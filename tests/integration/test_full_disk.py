"""Jobs on a disk that is really full: one line, exit code 1, nothing half, and with room the same bytes."""

import subprocess
from pathlib import Path

import pytest

from animatediff.data.clips.config import ClipConfig
from animatediff.data.sources.spec import SourceConfig
from animatediff.sprites.videos import write_videos
from pipelines import animate, ingest, train
from pipelines.settings import AnimateConfig, IngestConfig, TrainJobConfig
from tests.integration.conftest import hashes
from tests.support import write_yaml
from tests.support_base import build_base

pytestmark = pytest.mark.ray
CLIPS = ClipConfig(height=64, width=64, windows_per_video=4, windows="random")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Of the size that the disks are cut for."""
    return str(build_base(tmp_path_factory.mktemp("world") / "base", layers_per_block=2))


class Disk:
    """A disk of its own, of a size that can be changed."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def resize(self, size):
        options = f"{'remount,' if self.folder.is_mount() else ''}size={size}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a disk takes root")

    def unmount(self):
        if self.folder.is_mount():
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk")
    yield made
    made.unmount()


def check_refused(done, folder):
    """One line tells what is full and what to do, and no file is half there."""
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if " ERROR " in line]
    assert len(errors) == 1, done.stderr
    assert done.stderr.rstrip().endswith(errors[0])
    assert f"cannot use {folder}" in errors[0]
    assert "No space left on device (make room there or raise its quota; the same command goes on)" in errors[0]
    assert "Traceback" not in done.stderr
    assert [path for path in Path(folder).rglob("*") if path.name.endswith(".tmp") or "lease" in path.name] == []


def test_a_disk_that_is_full_when_shards_are_written(workers_here, base, tmp_path, disk, run_job):
    csv = write_videos(tmp_path / "source", num_videos=8, height=64, width=64)

    def config(output):
        source = SourceConfig(uri=str(csv))
        return IngestConfig(
            source=source, output_uri=str(output), base=base, clips=CLIPS, clips_per_unit=8, num_encoders=1
        )

    output = disk.folder / "out"
    path = write_yaml(tmp_path / "ingest.yaml", config(output).model_dump(mode="json"))
    disk.resize("400k")  # the parts take 0.3 MB, and so does the shard
    check_refused(run_job("ingest", "--config", path), output)
    assert len(list((output / "parts").iterdir())) == 4
    assert not list(output.glob("bucket=*/*"))
    disk.resize("20m")
    ingest.main(config(output))
    ingest.main(config(tmp_path / "straight"))
    assert hashes(output, ignore=("config.yaml", "ingest.json")) == hashes(tmp_path / "straight")


@pytest.fixture(scope="module")
def trained(cluster, base, tmp_path_factory):
    """A dataset, and the run and the clips that jobs with room have made of it."""
    root = tmp_path_factory.mktemp("trained")
    csv = write_videos(root / "source", num_videos=4, height=64, width=64)
    source = SourceConfig(uri=str(csv))
    ingest.main(IngestConfig(source=source, output_uri=str(root / "dataset"), base=base, clips=CLIPS))
    train.main(train_config(root, base, root / "run"))
    catalog = {
        "base": base,
        "motion_module": str(root / "run" / "motion_module.safetensors"),
        "width": 64,
        "height": 64,
    }
    prompts = [f"a red circle, number {number}" for number in range(8)]
    write_yaml(
        root / "catalog.yaml", catalog | {"num_inference_steps": 2, "prompts": prompts, "entries": [{"name": "one"}]}
    )
    animate.main(animate_config(root, root / "clips"))
    return root


def train_config(root, base, output):
    own = {"run_name": "full", "dataset_uri": str(root / "dataset"), "base": base, "output_uri": str(output)}
    steps = {"num_steps": 4, "batch_size": 1, "checkpoint_every": 2}
    own |= {"train": steps, "sample": {"num_inference_steps": 2}, "scaling": {"num_workers": 1, "max_failures": 0}}
    return TrainJobConfig.model_validate(own)


def animate_config(root, output):
    return AnimateConfig(catalog_uri=str(root / "catalog.yaml"), output_uri=str(output), num_actors=1)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["10m", "26m", "38m"])  # a checkpoint has 18.6 MB, the weights have 6.3 MB
def test_a_disk_that_is_full_while_training(trained, base, tmp_path, disk, run_job, size):
    disk.resize(size)
    output = disk.folder / "out"
    path = write_yaml(tmp_path / "train.yaml", train_config(trained, base, output).model_dump(mode="json"))
    check_refused(run_job("train", "--config", path), output)
    disk.resize("90m")
    assert run_job("train", "--config", path).returncode == 0
    name = "motion_module.safetensors"
    assert (output / name).read_bytes() == (trained / "run" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_disk_that_is_full_while_animating(trained, tmp_path, disk, run_job, share):
    num_bytes = sum(-(-path.stat().st_size // 4096) * 4096 for path in (trained / "clips").rglob("*") if path.is_file())
    disk.resize(f"{int(share * num_bytes) // 4096 * 4}k")
    output = disk.folder / "out"
    path = write_yaml(tmp_path / "animate.yaml", animate_config(trained, output).model_dump(mode="json"))
    check_refused(run_job("animate", "--config", path), output)
    disk.resize("90m")
    assert run_job("animate", "--config", path).returncode == 0
    assert hashes(output / "clips") == hashes(trained / "clips" / "clips")
