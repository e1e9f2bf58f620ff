"""Names of the files that jobs write at the top of their output folders.

Those that the library writes stand with what writes them. A job refuses a folder where a file of such a name is
somebody else's, so a name is known here and not only to its stage.
"""

CONFIG_FILE = "config.yaml"
"""Of every job: its config, with all defaults."""

INGEST_STATE_FILE = "ingest.json"
"""Of ingest: what a later job needs to go on in the same MLflow run."""

CURATE_STATE_FILE = "curate.json"
"""Of curate: what a later job needs to go on in the same MLflow run."""

RUN_FILE = "run.json"
"""Of train: the run's `RunState`."""
SKIPPED_FILE = "skipped.jsonl"
"""Of train: the steps that were skipped, and their clips."""
BEST_RECORD_FILE = "best.json"
"""Of train: step and held-out loss of the best weights so far."""


def best_weights_file(weights_file: str) -> str:
    """Return the name of the best weights so far, by the name of a run's last ones."""
    return f"best_{weights_file}"
