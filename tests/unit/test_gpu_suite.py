"""The GPU tests are collected on a machine that has PyTorch, and nothing of the jobs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # of which some belong to what is absent
ABSENT = ("ray", "mlflow", "av", "decord", "torchcodec", "s3fs", "boto3", "botocore", "moto", "hypothesis", "skvideo")


def collect(*absent):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "tests/gpu", "--collect-only", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


def test_it_needs_nothing_of_the_jobs():
    result = collect(*ABSENT)
    assert result.returncode == 0, result.stdout[-2000:]
    for file in (ROOT / "tests/gpu").glob("test_*.py"):
        assert f"tests/gpu/{file.name}::" in result.stdout
