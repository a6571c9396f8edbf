# make setup      a virtual environment in .venv with the pinned packages (needs python3 >= 3.11 only)
# make reproduce  every table and figure, from raw files; what is finished is skipped (SEEDS=3 for three seeds)
# make test       notebooks in step with the package, nbdev_test, pytest
# make readme     README's tables from figures/mini
# make rehearsal  every stage of the `paper` profile at full model size over a few dozen clips, on CPU
# make lab        JupyterLab on nbs/
# make lock       requirements.in -> requirements.lock
PY := .venv/bin/python
SEEDS ?= 1
PROFILE ?= mini
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: setup test reproduce readme rehearsal lab lock
setup: .venv/.done
.venv/.done: requirements.lock setup.py settings.ini
	@python3 -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), f"vipant needs Python 3.11 or 3.12, this is {sys.version.split()[0]}"'
	test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -q uv==0.13.9
	.venv/bin/uv pip sync -q --python $(PY) requirements.lock
	.venv/bin/uv pip install -q --python $(PY) --no-deps -e .
	touch $@
reproduce: setup
	vipant reproduce --profile $(PROFILE) --seeds $(SEEDS)
test: setup
	VIPANT_PROFILE=smoke timeout 1800 nbdev_test --timing
	timeout 1800 $(PY) -m pytest -q
readme: setup
	$(PY) -c 'from vipant.report import fill_readme; fill_readme()'
lab: setup
	jupyter lab nbs
lock: setup
	.venv/bin/uv pip compile -q --universal --no-header --python-version 3.11 requirements.in -o requirements.lock
rehearsal: setup
	vipant rehearsal
