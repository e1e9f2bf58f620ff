"""Workers of jobs in the test's own process: a process of their own imports torch and diffusers for six seconds.

The drivers, the workers' classes and the dispatcher are real; Ray Data's carrying of rows between them is not. For
tests of what a job says, leaves and goes on with, where others show the same on Ray's own workers.
"""

import pickle
from types import SimpleNamespace

import numpy as np

from animatediff.errors import UserError
from animatediff.storage import filesystems
from pipelines.cluster import stage_pools
from pipelines.stages.animate import launch
from pipelines.stages.animate.worker import RenderSlices
from pipelines.stages.curate import seal as curate_seal
from pipelines.stages.ingest import seal as ingest_seal
from pipelines.stages.train import watch


def use(monkeypatch):
    """Let drivers call their workers: of ingest and curate all, of animate all, of train who renders its sample."""
    monkeypatch.setattr(stage_pools, "_results", _results)
    monkeypatch.setattr(launch, "_ticket_dataset", _Tickets)
    for module in (curate_seal, ingest_seal, watch):
        monkeypatch.setattr(module, "ray", _Calls)
    # What a worker sets for its process.
    monkeypatch.setattr(filesystems._process, "waits_out_outages", False)


def _results(units, spec, pools):
    stages = [stage(spec) for stage in pools]
    for unit in units:
        row = {stages[0].input_column: [pickle.dumps(unit)], "error": [""]}
        for stage in stages:
            row = stage(row)
        if row["error"][0]:
            raise UserError(row["error"][0])
        yield pickle.loads(row[stages[-1].output_column][0])


class _Tickets:
    """As the data set of `launch`, with one worker."""

    def __init__(self, num_tickets, dispatcher, spec, num_actors):
        self._num_tickets, self._worker = num_tickets, RenderSlices(dispatcher, spec)

    def iter_rows(self):
        for ticket in range(self._num_tickets):
            rows = self._worker({"id": np.array([ticket])})
            yield from ({"digest": d, "error": e} for d, e in zip(rows["digest"], rows["error"], strict=True))


class _Calls:
    """Remote functions as calls."""

    @staticmethod
    def remote(**resources):
        return lambda function: SimpleNamespace(remote=function)

    @staticmethod
    def get(value):
        return value
