# `make demo` and `make test` work from a fresh clone with nothing but Python and make.
# Name another Python with `make PYTHON=/path/to/python3.12 ...`.
PYTHON ?= python3
BIN := .venv/bin

# Two at a time: a process takes up to 2 GB. One thread each, as two would only wait for one another.
UNIT = OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -q -n 2 --dist worksteal --ignore tests/unit/test_fake_cuda.py
# What runs jobs: two files at a time, as a job also waits, for processes to start, to die and to be polled. They come in
# the order given: by default files of one long test come last, and one process ends minutes after the other. A training
# worker asks for a thread a core; beside another test's processes they would spin for each other, five times as slow.
JOBS = OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint infra unit fakes integration notebooks properties fuzz slow gpu cluster bench files format clean

demo: .venv/.installed
	$(BIN)/python pipelines/demo.py

# What fails soonest comes first. The notebooks share the integration tests' two processes, so that neither waits.
test: .venv/.installed
	$(MAKE) --jobs 2 lint infra fakes
	$(UNIT)
	$(JOBS) tests/notebooks tests/integration

lint: .venv/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What describes the clusters, each file by its tool, and a planted fault for each check.
infra: .venv/.installed
	$(BIN)/python infra/validate.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/infra -q -n 2

unit: .venv/.installed fakes
	$(UNIT)

# Fake CUDA tensors have a process of their own: in one that had made them, PyTorch has given the same memory to two
# real tensors. As a plugin their module ends that process before PyTorch crashes at its end.
fakes: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.fake_cuda tests/unit/test_fake_cuda.py -q

integration: .venv/.installed
	$(JOBS) tests/integration

# Every notebook from its first cell to its last, two at a time.
notebooks: .venv/.installed
	OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1 $(BIN)/python -m pytest tests/notebooks -q -n 2 --dist worksteal

# Every property on new examples, which `make test` leaves as they are. A failing one becomes an `@example` of its test.
properties: .venv/.installed
	$(UNIT) -m hypothesis --hypothesis-profile new $(ARGS)

# 17,500 damaged files of every kind; `ARGS="--only tables --seed 7"` says which.
fuzz: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

# The full-size checks, and the long kills and full disks: about an hour and 15 GiB of memory on 2 cores.
slow: .venv/.installed
	$(BIN)/python -m pytest tests -q -s -m slow

# What only a GPU shows, in six minutes; on a CPU in miniature. `ARGS="--gpu-table figures.md"` keeps the table.
gpu: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu -q $(ARGS)

# The jobs on several hosts, with faults; needs root, iproute2 and PostgreSQL. `ARGS="-m slow"` is the long form.
cluster: .venv/.installed
	$(BIN)/python -m pytest tests/cluster -q $(ARGS)

# Ratios measured on this machine, never part of the tests.
bench: .venv/.installed
	$(BIN)/python -m tests.benchmarks.bench_lora
	$(BIN)/python -m tests.benchmarks.bench_decoding
	$(BIN)/python -m tests.benchmarks.bench_ingest
	$(BIN)/python -m tests.benchmarks.bench_step
	$(BIN)/python -m tests.benchmarks.count_sdxl_memory
	$(BIN)/python -m tests.benchmarks.bench_sdxl_step
	$(BIN)/python -m tests.benchmarks.bench_start
	$(BIN)/python -m tests.benchmarks.bench_catalog
	$(BIN)/python -m tests.benchmarks.bench_catalog --steps 4
	$(BIN)/python -m tests.benchmarks.bench_catalog_size
	$(BIN)/python -m tests.benchmarks.bench_gallery
	$(BIN)/python -m tests.benchmarks.bench_length
	$(BIN)/python -m tests.benchmarks.bench_presets
	$(BIN)/python -m animatediff.sprites.few_step.evaluation --num-clips 12
	$(BIN)/python -m tests.benchmarks.bench_precision
	$(BIN)/python -m tests.benchmarks.bench_curate
	$(BIN)/python -m tests.benchmarks.bench_repeats
	$(BIN)/python -m tests.benchmarks.bench_shots episodes
	$(BIN)/python -m tests.benchmarks.bench_shots speed

# The READMEs' lists of files, from the modules' docstrings.
files: .venv/.installed
	$(BIN)/python -m tests.readmes.files

format: .venv/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.installed: pyproject.toml infra/pins.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
	    f"Python 3.11 or 3.12 is needed, {sys.executable} is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint infra/pins.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs
