"""All jobs with a secret in everything that is a URI, and one in the environment: none of them is written anywhere."""

import io
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from moto.server import ThreadedMotoServer
from safetensors.torch import save_file

from animatediff.models.config import MotionConfig
from animatediff.models.motion_unet import MotionModules
from animatediff.weights import motion_modules
from animatediff.weights.base import load_unet
from tests.integration.conftest import REPOSITORY
from tests.integration.files_server import served
from tests.support import mp4

pytestmark = pytest.mark.ray

MARK = "pLaNtEd"


class Secrets:
    """Each is another one, so that what is found tells where it was planted."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, where: str) -> str:
        self.made.append(f"{MARK}{where}{len(self.made)}")
        return self.made[-1]


@pytest.fixture
def store(monkeypatch):
    """An object store and its client; the whole environment of a job that uses it."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": f"{MARK}Environment",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"))
    server.stop()


@pytest.fixture
def web(base, tmp_path):
    """A folder to serve: videos with a table, a motion module and a LoRA."""
    folder = tmp_path / "web"
    (folder / "videos").mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / "videos" / f"{name}.mp4").write_bytes(mp4(64))
    motion_modules.write(str(folder / "motion.safetensors"), MotionModules.for_base(load_unet(base), MotionConfig()))
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{name}.lora_down.weight": torch.zeros(2, 32), f"{name}.lora_up.weight": torch.zeros(32, 2)}
    save_file(lora, folder / "lora.safetensors")
    return folder


def write_configs(folder, web, port, base, root, secret):
    """A config for each job, and the table and the catalog that they name."""

    def at(path, where, host=f"127.0.0.1:{port}"):
        return f"http://me:{secret(where)}@{host}/{path}?v=1&token={secret(where)}"

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{listener.getsockname()[1]}"
    rows = ["path,caption", "a.mp4,clip a", f"{at('videos/b.mp4', 'Row')},clip b", f"{at('403/c.mp4', 'Row')},clip c"]
    (web / "videos.csv").write_text("\n".join(rows))
    configs = {
        "ingest": {
            "source": {"uri": at("videos.csv", "Source"), "videos_uri": at("videos", "Videos")},
            "output_uri": f"{root}/data",
            "base": base,
            "clips": {"height": 128, "width": 128, "num_frames": 4},
            "max_quarantine_rate": 1,
            "num_encoders": 1,
        },
        "train": {
            "run_name": "secrets",
            "recipe": "finetune",
            "dataset_uri": f"{root}/data",
            "base": base,
            "model": {"motion_module": at("motion.safetensors", "Motion")},
            "output_uri": f"{root}/run",
            "train": {"num_steps": 1, "batch_size": 1},
            "sample": {"num_inference_steps": 1},
        },
        "train-nowhere": {
            "run_name": "nowhere",
            "dataset_uri": at("data", "Dataset", closed),
            "base": at("base", "Base", closed),
            "output_uri": f"{root}/nowhere",
        },
        "ingest-nowhere": {
            "source": {"uri": at("500/videos.csv", "Source")},
            "output_uri": f"ftp://me:{secret('Output')}@{closed}/data",
            "base": base,
        },
        "animate": {
            "catalog_uri": at("catalog.yaml", "Catalog"),
            "output_uri": f"{root}/clips",
            "formats": ["mp4"],
            "num_actors": 1,
        },
        "animate-nowhere": {"catalog_uri": at("catalog.yaml", "Catalog", closed), "output_uri": f"{root}/nowhere"},
        "score": {"output_uri": f"{root}/clips", "scorer": "tests.integration.scorers:crash_on_red"},
        "score-nowhere": {"output_uri": at("clips", "Output", closed), "scorer": "tests.support:mp4"},
    }
    entries = [
        {"name": "good", "loras": [at("lora.safetensors", "Lora")]},
        {"name": "closed", "checkpoint": at("a.safetensors", "Checkpoint", closed)},
        {"name": "refused", "vae": at("403/a.safetensors", "Vae")},
        {"name": "keys", "loras": [f"s3://key:{secret('Lora')}@bucket/a.safetensors"]},
        {"name": "gone", "domain_adapter": at("a.safetensors;jsessionid=x", "Adapter")},
        {"name": "broken", "motion_loras": [at("videos/a.mp4", "MotionLora")]},
        {
            "name": "chain",
            "embeddings": [{"path": f"zip://a.pt::{at('a.zip', 'Embedding', closed)}", "token": "square"}],
        },
        {"name": "base", "base": at("base", "Base", closed)},
        {"name": "module", "motion_module": at("500/motion.safetensors", "Motion")},
    ]
    catalog = {
        "base": base,
        "motion_module": at("motion.safetensors", "Motion"),
        "prompts_uri": at("prompts.txt", "Prompts"),
        **{"width": 32, "height": 32, "num_frames": 4, "num_inference_steps": 1},
        "entries": entries,
    }
    (web / "prompts.txt").write_text("a blue square\n")
    (web / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    folder.mkdir()
    for name, content in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return [entry["name"] for entry in entries]


def contents(name: str, data: bytes) -> Iterator[bytes]:
    """What a file says: its bytes, and those that it keeps compressed."""
    yield data
    if name.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(data))
        yield repr(table.to_pylist()).encode()
        yield repr(table.schema.metadata).encode()


def leaks(files: Iterator[tuple[str, bytes]]) -> list[str]:
    return [
        name for name, data in files if any(MARK.encode() in each for each in (name.encode(), *contents(name, data)))
    ]


def files_below(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.read_bytes()


def objects(client) -> Iterator[tuple[str, bytes]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", ()):
            yield item["Key"], client.get_object(Bucket="bucket", Key=item["Key"])["Body"].read()


@pytest.mark.parametrize("kind", ["s3", pytest.param("local", marks=pytest.mark.slow)])
def test_no_secret_is_written_anywhere(kind, store, web, base, tmp_path):
    secret = Secrets()
    work, temporary = tmp_path / "work", Path(f"/tmp/ad-{os.getpid()}")
    work.mkdir()
    root = "s3://bucket" if kind == "s3" else str(tmp_path / "out")
    if kind == "s3":
        for path in Path(base).rglob("*"):
            if path.is_file():
                store.upload_file(str(path), "bucket", f"base;jsessionid={MARK}Base/{path.relative_to(base)}")
        base = f"s3://bucket/base;jsessionid={MARK}Base"
    with served(str(web)) as port:
        names = write_configs(tmp_path / "configs", web, port, base, root, secret)
        try:
            python_path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
            environment = {
                "XDG_CACHE_HOME": str(work / "cache"),
                "RAY_TMPDIR": str(temporary),
                "PYTHONPATH": python_path,
            }
            with (tmp_path / "said").open("w") as said:
                done = subprocess.run(
                    [sys.executable, "-m", "tests.integration.all_jobs", str(tmp_path / "configs")],
                    cwd=work,
                    env=os.environ | environment,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    timeout=900,
                )
            said = (tmp_path / "said").read_text()
            assert done.returncode == 0, said
            found = [*leaks(files_below(work, temporary, tmp_path / "out"))]
            assert any(name.endswith(".log") for name, _ in files_below(temporary))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    kept = [(name, data) for name, data in objects(store) if not name.startswith("base;")]
    assert MARK not in said, [line for line in said.splitlines() if MARK in line]
    assert found + leaks(iter(kept)) == []
    # All that could be done was done with the secrets that nobody was told.
    assert sum("nowhere" in line and "cannot" in line for line in said.splitlines()) == 4, said
    results = {row["entry"]: row for row in read_results(kind, kept, tmp_path)}
    assert list(results) == names
    assert {name for name, row in results.items() if row["status"] == "ok"} == {"good"}
    for name in ("closed", "refused", "keys", "chain", "base", "module"):
        assert "cannot" in results[name]["error"], results[name]
        assert "there is no" not in results[name]["error"], results[name]
    assert "there is no file" in results["gone"]["error"]
    with sqlite3.connect(work / "runs" / "mlflow.db") as database:
        params = dict(
            database.execute("select key, value from params where key in ('model.motion_module', 'source.uri')")
        )
    assert params == {
        "model.motion_module": f"http://127.0.0.1:{port}/motion.safetensors?v=1",
        "source.uri": f"http://127.0.0.1:{port}/videos.csv?v=1",
    }


def read_results(kind, kept, tmp_path):
    data = (
        dict(kept)["clips/results.parquet"] if kind == "s3" else (tmp_path / "out/clips/results.parquet").read_bytes()
    )
    return pq.read_table(io.BytesIO(data)).to_pylist()
