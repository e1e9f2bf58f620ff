"""What every job does to its output folder first."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.outputs.folder_lease import leased
from pipelines.outputs.output_folder import Job, check_output


@contextmanager
def claimed_folder(output_uri: str, job: Job, *, is_dry: bool) -> Iterator[None]:
    """Hold a job's output folder during the block: a new one, or the same job's from before.

    Args:
        output_uri: the folder.
        job: the job's name.
        is_dry: whether nothing is written.

    Raises:
        UserError: it holds something else, or another job is at work in it.
    """
    check_output(output_uri, job)
    with leased(output_uri, job, is_dry=is_dry):
        yield
