#!/bin/sh
# Runs the GPU tests with the machine's own Python: no installation, no Ray. From anywhere; the first argument is the
# file that the table of figures is written to, what follows goes to pytest (such as `-k "not compiled"`).
#   tests/gpu/run.sh figures.md
# Wheels in wheels/ beside the README.md of the project are unpacked first, for what the machine lacks.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
table=${1:-gpu.md}
[ $# -eq 0 ] || shift
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if ls "$root"/wheels/*.whl >/dev/null 2>&1; then
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$root"/wheels/*.whl
fi
case $table in /*) ;; *) table=$PWD/$table ;; esac
cd "$root"
PYTHONPATH="$root:$site" PYTHONUNBUFFERED=1 python3 -m pytest tests/gpu -q -p no:cacheprovider --gpu-table "$table" "$@"
