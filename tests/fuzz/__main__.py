"""`python -m tests.fuzz`: 10,000 videos, 5,000 weights files, 2,000 tables, 500 folders, and what came of them.

`--only tables --cases 1 --first 123` is the case 123 again. It exits 1 where there are faults.
"""

import argparse
import logging
import sys

import torch

from tests.fuzz import folders, tables, videos, weights
from tests.fuzz.harness import fuzz

_SUBJECTS = {
    "folders": (folders.FOLDERS, 500, weights.warm),
    "tables": (tables.TABLES, 2_000, tables.warm),
    "weights": (weights.WEIGHTS, 5_000, weights.warm),
    "videos": (videos.VIDEOS, 10_000, videos.warm),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=_SUBJECTS, nargs="*", default=list(_SUBJECTS), help="subjects")
    parser.add_argument("--cases", type=int, help="of each subject; default: as many as said above")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60, help="most for each subject")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    num_faults = 0
    for name in options.only:
        subject, cases, warm = _SUBJECTS[name]
        warm()
        numbers = range(options.first, options.first + (options.cases or cases))
        report = fuzz(subject, numbers, seed=options.seed, budget_s=60 * options.minutes)
        print(report, flush=True)  # noqa: T201
        for number, why in report.faults[:20]:
            print(f"  case {number} of seed {options.seed}: {why}", flush=True)  # noqa: T201
        num_faults += len(report.faults)
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
