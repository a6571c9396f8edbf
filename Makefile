# make setup      a virtual environment in .venv with the pinned packages (needs Python 3.11 to 3.14 only;
#                 PYTHON=python3.12 takes another than python3)
# make reproduce  every table and figure, from raw files, into figures/$(PROFILE)-1seed (SEEDS=3 for three seeds); says
#                 how many numbers are equal to those of figures/$(PROFILE); what is finished is skipped
# make publish    a run of three seeds, its tables and figures put in place of figures/$(PROFILE), and README's
# make test       ruff over notebooks, package and tests; nbdev_test; pytest
# make faults     kills at random moments, runs at once, full disks, spoiled inputs: a table of what came of them,
#                 figures/bench/faults.md (half an hour; a part of it: PARTS=inputs, kills, together or disks)
# make bench      what a training step costs beside a matrix product, figures/bench/step.csv
# make readme     README's tables from figures/mini
# make rehearsal  every stage of the `paper` profile at full model size over a few dozen clips, on CPU
# make lab        JupyterLab on nbs/
# make lock       requirements.in -> requirements.lock
PY := .venv/bin/python
PYTHON ?= python3
SEEDS ?= 1
publish: SEEDS := 3
PROFILE ?= mini
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# Whether $(PYTHON) can make .venv; if not, one line says why and what to do. A .venv that has pip is taken as it is
define CHECK_PYTHON
import configparser, sys
settings = configparser.ConfigParser()
settings.read('settings.ini', encoding='utf-8')
pythons = settings['DEFAULT']['pythons'].split()
version = '%d.%d' % sys.version_info[:2]
if version not in pythons:
    sys.exit(f'vipant needs Python {pythons[0]} to {pythons[-1]}, this is {version}: '
             'make setup PYTHON=python3.12 takes that one, where it is installed')
try:
    import ensurepip
except ImportError:
    sys.exit(f'Python {version} lacks ensurepip and cannot make a virtual environment: '
             f'apt install python{version}-venv, or, where uv is, uv venv --seed; then make setup again')
endef
export CHECK_PYTHON

.PHONY: setup test faults reproduce publish bench readme rehearsal lab lock
setup: .venv/.done
.venv/.done: requirements.lock setup.py settings.ini
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -c "$$CHECK_PYTHON"
	@$(PY) -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	$(PY) -m pip install -q uv==0.13.9
	.venv/bin/uv pip sync -q --compile-bytecode --python $(PY) requirements.lock
	.venv/bin/uv pip install -q --python $(PY) --no-deps -e .
	touch $@
reproduce: setup
	vipant reproduce --profile $(PROFILE) --seeds $(SEEDS)
publish: setup
	vipant reproduce --profile $(PROFILE) --seeds $(SEEDS) --publish
	$(MAKE) readme
test: setup
	ruff check nbs vipant tests
	VIPANT_PROFILE=smoke timeout --signal=INT --kill-after=60 1800 nbdev_test --timing
	timeout --signal=INT --kill-after=60 1800 $(PY) -m pytest -q
faults: setup
	PYTHONPATH=tests $(PY) -m faults $(PARTS) $(if $(FOLDER),--folder $(FOLDER))
bench: setup
	mkdir -p runs
	papermill nbs/studies/bench.ipynb runs/bench.ipynb -p keep True
readme: setup
	$(PY) -c 'from vipant.engine.report import fill_readme; fill_readme()'
lab: setup
	jupyter lab nbs
lock: setup
	.venv/bin/uv pip compile -q --universal --no-header --python-version 3.11 requirements.in -o requirements.lock
rehearsal: setup
	vipant rehearsal
