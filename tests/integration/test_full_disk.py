"""Jobs on a disk that is really full: one line, exit code 1, nothing half, and with room the same bytes."""

import subprocess
from pathlib import Path

import pytest

from animatediff.data.clips import ClipConfig
from animatediff.sprites.videos import write_videos
from pipelines import ingest
from pipelines.settings import IngestConfig, SourceConfig
from tests.integration.conftest import hashes, write_yaml

pytestmark = pytest.mark.ray
CLIPS = ClipConfig(height=64, width=64, windows_per_video=4, windows="random")


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


def test_a_disk_that_is_full_when_shards_are_written(cluster, base, tmp_path, disk, run_job):
    csv = write_videos(tmp_path / "source", num_videos=24, height=64, width=64)

    def config(output):
        source = SourceConfig(uri=str(csv))
        return IngestConfig(source=source, output_uri=str(output), base=base, clips=CLIPS, clips_per_unit=8)

    output = disk.folder / "out"
    path = write_yaml(tmp_path / "ingest.yaml", config(output).model_dump(mode="json"))
    disk.resize("1200k")  # the parts take 0.9 MB, and so does the shard
    check_refused(run_job("ingest", "--config", path), output)
    assert len(list((output / "parts").iterdir())) == 12
    assert not list(output.glob("bucket=*/*"))
    disk.resize("20m")
    ingest.main(config(output))
    ingest.main(config(tmp_path / "straight"))
    assert hashes(output, ignore=("config.yaml", "ingest.json")) == hashes(tmp_path / "straight")
