# Two commands do everything: `make run` starts the studio, `make test` runs all checks.
# Both install what they need on a fresh machine, and take seconds the second time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test check soak audit lock screenshots clean

run: .venv/installed
	$(BIN)/avatar-studio serve

# Two files at a time, one thread a process: tests start studios, workers and trainers beside them.
test: .venv/installed-test .venv/browser .venv/postgres check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -n 2 --dist loadfile

check: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_rooms.py tests/test_docs.py

# Full budgets: hundreds of kills, full-length trainings, fuzzing. Hours, not minutes.
soak: .venv/installed-test .venv/browser .venv/postgres
	$(BIN)/python -m pytest -q -p no:cacheprovider -m soak --override-ini=addopts=

# Takes every picture in docs/screenshots again from a running studio.
screenshots: .venv/installed-test .venv/browser
	$(BIN)/python -m docs.screenshots

# Asks a vulnerability service about every locked package; fails, too, when it cannot be asked.
audit: .venv/audit
	.venv/audit/bin/python locks/audit.py

.venv/audit:
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install -q --disable-pip-version-check pip-audit==2.10.1

# Writes locks/ anew, after pyproject.toml or constraints.txt changed.
lock: .venv/installed
	$(BIN)/python -m pip install -q --disable-pip-version-check uv==0.13.9
	$(BIN)/python locks/make.py

# Every file must have a hash that locks/ knows. A torch that is there already (a build for another
# CUDA, say) stays; else the small build without CUDA comes where the index has it, or PyPI's.
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check
.venv/installed: pyproject.toml constraints.txt $(wildcard locks/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes --no-deps -r locks/run.txt
	$(BIN)/python -m pip show torch 2>/dev/null \
	  | grep -q "^Version: $$(sed -n 's/^torch==//p' constraints.txt)" \
	  || $(INSTALL) --require-hashes --no-deps -r locks/torch-cpu.txt 2>/dev/null \
	  || $(INSTALL) --require-hashes --no-deps -r locks/torch.txt
	if $(BIN)/python -m pip show torch | grep -q nvidia-cudnn-cu13; then \
	  $(INSTALL) --require-hashes --no-deps -r locks/cuda.txt; fi
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

.venv/installed-test: .venv/installed locks/test.txt
	$(INSTALL) --require-hashes --no-deps -r locks/test.txt
	touch $@

# The tests drive Debian's Chromium; another one can be named with CHROMIUM=/path/to/chromium.
.venv/browser: .venv/installed-test
	@if ! command -v $${CHROMIUM:-chromium} >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && apt-get install -y -q --no-install-recommends chromium; \
	  else \
	    echo "The tests need Chromium: install it (Debian: apt-get install chromium)" \
	         "or name one with CHROMIUM=/path/to/chromium." >&2; exit 1; \
	  fi; fi
	touch $@

# What is promised on Postgres is tested on a real one. Without it those tests say that they skip.
.venv/postgres: .venv/installed-test
	@if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
	  touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -q \
	  && apt-get install -y -q --no-install-recommends postgresql; then \
	  touch $@; \
	else \
	  echo "WARNING: the tests on Postgres will be SKIPPED: install it (Debian: apt-get install" \
	       "postgresql; elsewhere put initdb and pg_ctl on the PATH)." >&2; \
	fi

clean:
	rm -rf .venv build *.egg-info
