"""A platform of four hosts: a Ray head, two workers, and one with an S3 store and MLflow on PostgreSQL."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import boto3

from tests.cluster.network import Host, Network

REPOSITORY = Path(__file__).parents[2]
_BIN = Path(sys.executable).parent
_S3_PORT, _MLFLOW_PORT, _POSTGRES_PORT, _GCS_PORT, _DASHBOARD_PORT = 9000, 5000, 5432, 6379, 8265
_TOKEN = "a-token-of-these-tests-that-is-32-characters"
_START_S = 180


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, which Debian keeps off the path; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def wait_until(condition: Callable[[], object], what: str, seconds: float = _START_S) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.5)


class Platform:
    """The hosts and what runs on them; as a context.

    Args:
        folder: for logs and PostgreSQL's data.

    Attributes:
        network: cuts and kills its hosts `head`, `one`, `two` and `store`.
        s3: a client of the store.
        mlflow_uri: the tracking server's address.
        mlflow: its process, a group of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.network = Network()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.network)
            for name in ("head", "one", "two", "store"):
                self.network.add(name)
            store = self.network.hosts["store"]
            self._s3_url = f"http://{store.address}:{_S3_PORT}"
            self.mlflow_uri = f"http://{store.address}:{_MLFLOW_PORT}"
            self._dashboard = f"http://{self.network.hosts['head'].address}:{_DASHBOARD_PORT}"
            self._env = os.environ | {
                "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": self._s3_url,
                "MLFLOW_TRACKING_URI": self.mlflow_uri,
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": _TOKEN,
                "OMP_NUM_THREADS": "1",
            }
            self._start_s3(store)
            self._start_postgres(store)
            self.start_mlflow()
            for name in ("head", "one", "two"):
                self.start_ray(name)
            wait_until(lambda: self._submit("true").wait() == 0, "the job server does not take jobs")
            stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.network.__exit__(*exception)

    def _start_s3(self, host: Host) -> None:
        command = [str(_BIN / "moto_server"), "-H", "0.0.0.0", "-p", str(_S3_PORT)]
        host.start(command, self._folder / "s3.log", env=self._env, cwd=self._folder)
        _wait_for(self._s3_url)
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self._s3_url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        for bucket in ("data", "mlflow"):
            self.s3.create_bucket(Bucket=bucket)

    def _start_postgres(self, host: Host) -> None:
        programs = postgres_programs()
        if programs is None:
            raise OSError("there is no PostgreSQL here")
        data = self._folder / "postgres"
        data.mkdir()
        user = pwd.getpwnam("postgres")
        shutil.chown(data, user.pw_uid, user.pw_gid)
        for parent in data.parents:  # pytest's folders are root's alone
            if parent.stat().st_mode & 0o001 == 0:
                parent.chmod(parent.stat().st_mode | 0o011)
        as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        subprocess.run(
            [*as_postgres, programs / "initdb", "-D", data, "-U", "mlflow", "--auth", "trust"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (data / "pg_hba.conf").write_text("host all all samenet trust\n")
        command = [*as_postgres, str(programs / "postgres"), "-D", str(data), "-k", "", "-h", "0.0.0.0"]
        host.start(
            [*command, "-p", str(_POSTGRES_PORT)], self._folder / "postgres.log", env=self._env, cwd=self._folder
        )

    def start_mlflow(self) -> None:
        """Start the tracking server, `self.mlflow`; its artifacts go through it, into the store."""
        store = self.network.hosts["store"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "0.0.0.0", "--port", str(_MLFLOW_PORT)]
        command += ["--workers", "1", "--allowed-hosts", "*", "--artifacts-destination", "s3://mlflow"]
        command += ["--backend-store-uri", f"postgresql+psycopg://mlflow@{store.address}:{_POSTGRES_PORT}/postgres"]
        env = self._env | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.mlflow = store.start(command, self._folder / "mlflow.log", env=env, cwd=self._folder)
        _wait_for(f"{self.mlflow_uri}/health")

    def start_ray(self, name: str) -> None:
        """Start Ray on a host, again and again as a pod's container is: a raylet that was declared dead ends itself."""
        host = self.network.hosts[name]
        ray = [str(_BIN / "ray"), "start", "--block", "--disable-usage-stats", "--node-ip-address", host.address]
        ray += ["--object-store-memory", str(200 * 2**20)]
        if name == "head":
            ray += ["--head", "--port", str(_GCS_PORT), "--dashboard-host", host.address, "--num-cpus", "0"]
            ray += ["--dashboard-port", str(_DASHBOARD_PORT)]
        else:
            ray += ["--address", f"{self.network.hosts['head'].address}:{_GCS_PORT}", "--num-cpus", "2"]
        forever = ["sh", "-c", 'while true; do "$@"; sleep 1; done', "again", *ray]
        host.start(forever, self._folder / f"ray-{name}.log", env=self._env, cwd=REPOSITORY)

    def num_hosts(self) -> int:
        """Return the number of hosts that Ray counts as alive."""
        request = urllib.request.Request(f"{self._dashboard}/nodes?view=summary")
        request.add_header("Authorization", f"Bearer {_TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            summary = json.load(answer)["data"]["summary"]
        return sum(node["raylet"]["state"] == "ALIVE" for node in summary)

    def submit(self, job: str, config_uri: str) -> subprocess.Popen[str]:
        """Submit a job as a user does, and follow it; what it says is in its log."""
        return self._submit("python", f"pipelines/{job}.py", "--config", config_uri)

    def _submit(self, *command: str) -> subprocess.Popen[str]:
        log = (self._folder / "jobs.log").open("a")
        return subprocess.Popen(
            [str(_BIN / "ray"), "job", "submit", "--address", self._dashboard, "--", *command],
            env=self._env,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def log(self) -> str:
        """Return what all submitted jobs have said."""
        return (self._folder / "jobs.log").read_text()

    def environment(self) -> Mapping[str, str]:
        """Return the variables with which a process on this machine uses the store and the tracking server."""
        return self._env

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the bucket `data` below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="data", Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, key: str) -> bytes:
        """Return an object of the bucket `data`."""
        return self.s3.get_object(Bucket="data", Key=key)["Body"].read()

    def write(self, key: str, content: bytes) -> str:
        """Write an object to the bucket `data` and return its URI."""
        self.s3.put_object(Bucket="data", Key=key, Body=content)
        return f"s3://data/{key}"

    def upload(self, folder: Path, prefix: str) -> str:
        """Write a folder's files to the bucket `data` and return its URI."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.write(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://data/{prefix}"


def _wait_for(url: str) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    wait_until(answers, f"{url} does not answer")
