# A thin layer over run.py, for who has make: `make series PROFILE=smoke` is `python3 run.py series --profile smoke`.
# `make` lists the tasks.  PYTHON=python3.12 chooses the Python that a new environment gets.

PYTHON ?= python3
TASKS := series test test-rest test-all lab doctor install pin sweep tune publish refresh stable browser editions site slides bench \
         chaos fuzz mutants lowest clean
VARIABLES := PROFILE ONLY SEED DEVICE SET JOBS MINUTES KILLS CASES FUZZ_SEED TESTS QUICK PUBLISH OPEN

.PHONY: help $(TASKS)

help:
	@$(PYTHON) run.py --help

$(TASKS):
	@$(PYTHON) run.py $@ $(foreach v,$(VARIABLES),$(if $($v),"$(if $(filter environment,$(origin $v)),?)$v=$($v)"))
