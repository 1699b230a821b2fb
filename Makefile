# What a fresh machine needs: Python 3.11 or newer with venv, and make. Everything else comes from the package index
# into .venv; what `make test`, `make soak`, `make guard` and `make bench` need besides (redis-server, haproxy, nginx,
# valgrind, openssl, nodejs, npm) is installed through apt if it is missing, and what else `make bench` compares with
# into build/bench.

VENV := .venv
BIN := $(VENV)/bin
# Tests run in so many processes.
JOBS ?= 2

CORPORA := build/corpora
DESYNC_GUARDIAN ?= https://github.com/aws/http-desync-guardian
LLHTTP ?= https://github.com/nodejs/llhttp

# The newest Python that is new enough and can make a virtual environment; some names on a PATH lead nowhere.
FIND_PYTHON = for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { command -v "$$python"; exit 0; }; done; \
	echo 'No Python 3.11 or newer that can make virtual environments was found. On Debian and Ubuntu:' \
	'apt-get install python3-venv. To choose one yourself: make PYTHON=/path/to/python3' >&2; exit 1

.DEFAULT_GOAL := help
.PHONY: help run demo test test-all programs coverage lint format bench guard soak fuzz corpora clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | while IFS='	' read -r name about; \
	do printf '%-10s %s\n' "$$name" "$$about"; done

run: $(VENV)/installed ## Serve config/sluice.yaml on port 5000
	$(BIN)/sluice serve --config config/sluice.yaml

demo: $(VENV)/installed ## Show what it does, without a key and without a network
	$(BIN)/python -m demo

test: $(VENV)/installed-all programs ## Run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not long'

test-all: $(VENV)/installed-all programs ## Run the tests, and the long ones
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Real servers that tests run against, each its own: Redis, and the balancer of docker-compose.yml.
programs: $(VENV)/installed
	@$(BIN)/python -m bench.install redis-server haproxy

coverage: $(VENV)/installed-all ## Check that core, stages and settings are covered by their own tests
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --cov=proxy.core --cov=proxy.stages --cov=proxy.settings \
	--cov-fail-under=95 tests/core tests/stages tests/settings tests/house/test_config.py

lint: $(VENV)/installed-all ## Check style, types, the schema, the Dockerfile and docker-compose.yml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sluice config --schema | cmp - config/sluice.schema.json
	$(BIN)/check-jsonschema --schemafile config/sluice.schema.json config/sluice.yaml config/examples/*.yaml
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/docker-compose config --quiet
	bash -n .ci/run

format: $(VENV)/installed-all ## Bring the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## Measure what gateways cost, side by side; BENCH=--quick for a rough look
	$(BIN)/python -m bench $(BENCH)

guard: $(VENV)/installed ## Count what a request costs against the baseline; GUARD=--record for a new one
	$(BIN)/python -m guard $(GUARD)

soak: $(VENV)/installed-all programs ## Measure what holds under faults in great numbers; SOAK=--quick for a rough look
	-@$(BIN)/python -m bench.install faketime
	$(BIN)/python -m soak $(SOAK)

fuzz: $(VENV)/installed-all ## Try inputs nobody would send, a minute each; FUZZ="--seconds 600" for more
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary atheris --editable '.[fuzz]'
	$(BIN)/python -m fuzz $(FUZZ)
	-$(MAKE) --no-print-directory corpora
	$(BIN)/python -m tests.corpus --proxies $(foreach name,desync-guardian llhttp,\
	$(if $(wildcard $(CORPORA)/$(name)),--$(name) $(CORPORA)/$(name)))
	$(BIN)/python -m tests.conformance

corpora: $(CORPORA)/desync-guardian $(CORPORA)/llhttp ## Fetch the public collections of odd messages that `make fuzz` replays

# At the commits that tests/corpus/README.md names.
$(CORPORA)/desync-guardian: FROM = $(DESYNC_GUARDIAN) 7dd6f37171f0a8428d259f2631aee5e7b01a1d64
$(CORPORA)/llhttp: FROM = $(LLHTTP) 01e105a30fd06e248bc8ac73c4adb34a63d4114a
$(CORPORA)/%:
	rm -rf $@.part
	git init --quiet $@.part
	git -C $@.part fetch --quiet --depth 1 $(FROM)
	git -C $@.part checkout --quiet FETCH_HEAD
	mv $@.part $@

clean: ## Remove what was built and installed here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist

# The stamps make a second run start at once, and a changed pyproject.toml install again.
$(VENV)/made:
	@python=$$($(FIND_PYTHON)) && echo "$$python -m venv $(VENV)" && "$$python" -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-all: pyproject.toml | $(VENV)/made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@ $(VENV)/installed
