# make demo   the main job on the shipped bag: real node, real DDS, sensors failing; writes out/demo/index.html
# make test   lint, types and all tests
# make street, make train: a rendered data set, and a student trained on it (hours on a CPU)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
## ROS 2 set up in the shell puts its own packages before the ones installed here.
export PYTHONPATH :=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
## The student that keeps up on two cores; the other is anyseg_street_b0. Of the command line, not the environment:
MODEL := anyseg_street_fast

.PHONY: help demo test lint street train clean renderer

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no venv module: on Debian or Ubuntu install python3-venv"; exit 1; }

$(VENV)/.runtime: setup.py constraints.txt | $(BIN)/python
	@echo "installing the runtime into $(VENV) ..."
	$(BIN)/pip install -q --progress-bar on -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@echo "installing training, simulation and test tools into $(VENV) ..."
	$(BIN)/pip install -q --progress-bar on -c constraints.txt -e '.[demo,training,simulation,dev]'
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/python -m anyseg_ros.ros.demo --model $(MODEL) --out out/demo

## The renderer draws through EGL, which comes as Debian packages.
renderer:
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libEGL.so.1"); ctypes.CDLL("libOpenGL.so.0")' 2>/dev/null || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libegl1 libgl1-mesa-dri libopengl0 >/dev/null; \
	else \
	  echo "the simulation needs EGL: sudo apt-get install libegl1 libgl1-mesa-dri libopengl0"; exit 1; \
	fi

lint: $(VENV)/.development
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy

test: $(VENV)/.development renderer lint
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

street: $(VENV)/.development renderer
	@$(BIN)/python -m training.simulation dataset --out data/street

train: $(VENV)/.development
	@$(BIN)/python training/experiments.py run training/experiments/anyseg_street.yaml

clean:
	rm -rf $(VENV) out build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
