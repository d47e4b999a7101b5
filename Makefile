# make series   execute the notebooks and write build/series/PROFILE/index.html
# make test     the quick checks: lint, unit tests, every notebook executed once and compared (8 minutes on two slow cores)
# make test-all everything: what `make test` does, and then what it leaves out (the slow unit tests, nbval on every
#               notebook, solved notebooks with another seed, browser, site, vulnerabilities, lowest versions)
# make test-rest  only what `make test` leaves out (MINUTES=25: as much as fits into that time on this machine)
# make lab      open JupyterLab       make refresh  renew the stored notebook outputs
# make browser  every control of every notebook by keyboard, in JupyterLab (needs chromium: apt-get install chromium)
# make stable   two refreshes of every notebook differ in nothing (ONLY=03)
# make editions build/editions/student (outputs removed) and solution (solved and executed)
# make site     build/site/html: the notebooks as pages that read offline
# make lowest   the unit tests on the lowest supported versions of the dependencies
# make bench    time this kit against diffusers (QUICK=1: two minutes; PUBLISH=1: keep it)
# make sweep    train and measure every arm over many seeds, digits and exact teacher; goes on where it was stopped (JOBS=2)
# make tune     choose each arm's learning rate on a validation split
# make chaos    kill training, sweep, evaluation, fetch and series; full disks, two at once: is anything lost? (KILLS=50)
# make fuzz     files from a stranger for every reader: the right answer or one clear error (CASES=10000)
# make mutants  change the mathematics one place at a time: do the tests notice? (ONLY=schedule)
# make publish  ledger, cost and README from data/results and the last digits series
#
# PROFILE=smoke|digits|…   ONLY=02,04   SEED=7   DEVICE=cpu   SET="student_steps=100 arms=dash,scratch"   PYTHON=python3.12

PYTHON ?= python3
PROFILE ?= digits
SEED ?= 42
DEVICE ?= auto
JOBS ?= 1
VENV := .venv
BIN := $(VENV)/bin
export TQDM_MININTERVAL = 1

.PHONY: series test test-all test-rest lowest bench chaos fuzz mutants lab refresh stable browser editions site sweep tune publish doctor clean

series: $(VENV)/.ready
	@$(BIN)/dashkit series --profile "$(PROFILE)" --seed "$(SEED)" --device "$(DEVICE)" --only "$(ONLY)" $(foreach s,$(SET),--set "$(s)")

test: $(VENV)/.ready-test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/gate.py

test-all: $(VENV)/.ready-test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/gate.py all

test-rest: $(VENV)/.ready-test
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/gate.py rest $(if $(MINUTES),--minutes $(MINUTES))

refresh: $(VENV)/.ready-test
	@$(BIN)/python tests/gate.py refresh $(foreach n,$(subst $(comma), ,$(ONLY)),$(n))

stable: $(VENV)/.ready-test
	@$(BIN)/python tests/gate.py stable $(foreach n,$(subst $(comma), ,$(ONLY)),$(n))

browser: $(VENV)/.ready-test
	@$(BIN)/python tests/tools/browser.py $(foreach n,$(subst $(comma), ,$(ONLY)),$(n))

editions: $(VENV)/.ready
	@$(BIN)/python -m dashkit.classroom.editions "$(PROFILE)"

site: $(VENV)/.ready-test
	@$(BIN)/python docs/pages.py $(wildcard build/series/$(PROFILE))

sweep: $(VENV)/.ready
	@$(BIN)/dashkit sweep --profile digits --jobs $(JOBS) --publish
	@$(BIN)/dashkit sweep --profile exact --jobs $(JOBS) --publish

tune: $(VENV)/.ready
	@$(BIN)/dashkit tune --publish

publish: $(VENV)/.ready
	@$(BIN)/python -m dashkit.publishing.readme

bench: $(VENV)/.ready-test
	@DASHKIT_PROGRESS=0 $(BIN)/python tests/tools/bench.py $(if $(QUICK),--quick) $(if $(PUBLISH),--publish)

chaos: $(VENV)/.ready-test
	@$(BIN)/python tests/tools/chaos.py --kills $(or $(KILLS),50)

fuzz: $(VENV)/.ready-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris 2>/dev/null || true
	@$(BIN)/python tests/tools/fuzz.py --cases $(or $(CASES),10000) --seed $(or $(FUZZ_SEED),0)

mutants: $(VENV)/.ready-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[mutants]'
	@$(BIN)/python tests/tools/mutants.py $(foreach m,$(subst $(comma), ,$(ONLY)),--only $(m))

# the unit tests (or TESTS=…) on the lowest supported versions of the direct dependencies, in an environment of their own
lowest: $(VENV)/.ready-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@test -x $(VENV)-lowest/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python $(VENV)-lowest
	@$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct '.[test]'
	@PYTHONPATH="$(CURDIR)" PATH="$(CURDIR)/$(VENV)-lowest/bin:$$PATH" $(VENV)-lowest/bin/python -m pytest -q -n auto -m "slow or not slow" $(TESTS)

lab: $(VENV)/.ready
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate notebooks

doctor: $(VENV)/.ready
	@$(BIN)/dashkit doctor

clean:
	rm -rf build

comma := ,

# one virtual environment; made again when pyproject.toml changes
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] < (3, 14); sys.exit(0 if ok else "Python 3.11, 3.12 or 3.13 is needed, this is %d.%d; try: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch is large; this happens once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
