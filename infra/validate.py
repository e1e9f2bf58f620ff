"""Check every file of infra/, and that they agree with one another: `python infra/validate.py`.

One line a fault: file, place, what is wrong, how to mend it, and the check's name. Exit code 1 where there are any.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, the repository is not

from infra.checks.table import CHECKS, run_checks  # noqa: E402
from infra.checks.tree import Tree  # noqa: E402


def main(root: Path = ROOT) -> int:
    """Check a repository and say what was found; returns the exit code."""
    tree = Tree(root)
    report = run_checks(tree)
    for name, fault in report.faults:
        sys.stdout.write(f"{fault} [{name}]\n")
    for name, reason in report.skipped.items():
        sys.stdout.write(f"skipped {name}: {reason}\n")
    found = f"{len(report.faults)} fault{'s' * (len(report.faults) > 1)}" if report.faults else "no fault"
    sys.stdout.write(
        f"{found}: {len(CHECKS) - len(report.skipped)} of {len(CHECKS)} checks over {len(tree.files)} files\n"
    )
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
