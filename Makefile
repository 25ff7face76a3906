# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check clean

# The marker is newer than what it was made from, so a second run installs nothing.
$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; or name another: make PYTHON=python3 ..." >&2; exit 1; }
	@echo "setting up $(VENV) (torch is large: a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --constraint constraints.txt --editable '.[broker,fleet,gateway,recording,tracing,worker,sim,dev]'
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/python -m scripts.rendering
	MUJOCO_GL=egl $(BIN)/python -m scripts.demo

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips --target=3.8- --violations client

# Real processes on a shared machine stand still for seconds at times: a test that fails is run once
# more, and its first failure shown at the end. CONTRIBUTING.md says what to do about one.
test: check
	@$(BIN)/python -m scripts.rendering
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder --reruns 1

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info outputs
