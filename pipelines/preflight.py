"""Whether a job's night would be spent well: storage, GPUs, versions and all it needs, on every node, as one table."""

from animatediff.config import Config
from pipelines.command import run_job


def main(config: Config) -> None:
    """Check on every node of the cluster what a job needs, and tell it as one table on standard output.

    Args:
        config: any job's.

    Raises:
        UserError: something is wrong; the table has a row for each fault, with its node and the remedy.
    """
    from pipelines.stages.preflight.driver import preflight

    preflight(config)


if __name__ == "__main__":
    run_job(main)
