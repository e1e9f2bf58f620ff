"""Quarantined videos that are to be tried again."""

from collections.abc import Collection, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from animatediff.data.ingest import plan as planning
from animatediff.data.ingest.plan import UnitRef
from animatediff.data.ingest.seal import read_quarantine
from animatediff.data.quarantine import Reason
from animatediff.data.sources.spec import SourceVideo


def videos_with_reasons(
    dataset_uri: str, units: Sequence[UnitRef], num_sealed: int, reasons: Collection[Reason]
) -> list[SourceVideo]:
    """Return the quarantined videos with the wanted reasons, in plan order, save those that an unsealed unit has.

    Args:
        dataset_uri: the dataset's folder.
        units: of its plan.
        num_sealed: how many of them, from the first on, are sealed; with none there is no quarantine yet.
        reasons: which are wanted.

    Raises:
        UserError: the plan or the quarantine cannot be read.
    """
    if not num_sealed or not reasons:
        return []
    rows = read_quarantine(dataset_uri)
    named = pa.array([str(reason) for reason in reasons])
    wanted = rows.filter(pc.and_(pc.is_in(rows["reason"], named), pc.not_equal(rows["unit_id"], "")))
    units_of = dict(zip(wanted["video_id"].to_pylist(), wanted["unit_id"].to_pylist(), strict=True))
    chosen: dict[str, SourceVideo] = {}
    for name in sorted({unit.plan_file for unit in units}):
        rows_of_file = planning.read_plan_file(dataset_uri, name)
        found = rows_of_file.filter(pc.is_in(rows_of_file["video_id"], pa.array(list(units_of), pa.string())))
        for row in found.to_pylist():
            if row["ordinal"] >= num_sealed:
                chosen.pop(row["video_id"], None)
            elif row["unit_id"] == units_of[row["video_id"]]:
                chosen[row["video_id"]] = planning.planned_video(row)
    return list(chosen.values())
