"Notebooks and package agree, and the notebooks are fit to be read, cleaned and parametrised"
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
BIN = Path(sys.executable).parent

def test_there_are_notebooks():
    "nbdev_test passes when it finds none"
    assert len(NOTEBOOKS) >= 60

def test_no_two_notebooks_have_the_same_name():
    names = [p.stem for p in NOTEBOOKS]
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.relative_to(ROOT/'nbs').with_suffix('').as_posix())
def test_notebook(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    assert nb.nbformat_minor >= 5 and all(c.get('id') for c in nb.cells)
    first = nb.cells[0]
    assert first.cell_type == 'markdown' and re.match(r'# .+\n\n> .+', first.source), 'a title, and a line about it'
    tagged = [c for c in nb.cells if 'parameters' in c.metadata.get('tags', [])]
    if path.parent.name == 'paper' or path.stem in ('04_curation', '06_classification'):
        assert len(tagged) == 1
        # papermill's help loses a line whose comment holds one of these
        assert not [l for l in tagged[0].source.splitlines() if re.search('[\'"=]', l.partition('#')[2])]
    assert not [o for c in nb.cells for o in c.get('outputs', []) if o.output_type == 'error']
    assert not re.search(r'/(home|root|work|tmp)/', path.read_text(encoding='utf-8')), 'a path of somebody\'s machine'

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the checkout's notebooks, package and settings"
    to, left_out = tmp_path_factory.mktemp('checkout'), shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
    for name in ('nbs', 'vipant'): shutil.copytree(ROOT/name, to/name, ignore=left_out)
    for name in ('settings.ini', 'README.md', 'pyproject.toml'): shutil.copy(ROOT/name, to)
    return to

def read(path): return path.read_text(encoding='utf-8')

def modules(root):
    files = sorted((root/'vipant').rglob('*.py'))
    return {f.relative_to(root).as_posix(): read(f) for f in files}

def test_export_changes_nothing(copy):
    "What the notebooks export is the package, and nothing is in it besides but vipant.released, which hands names on"
    for f in (copy/'vipant').rglob('*.py'):
        if f.name != '__init__.py' and f != copy/'vipant'/'released.py': f.unlink()
    r = subprocess.run([BIN/'nbdev_export'], cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    ours, exported = modules(ROOT), modules(copy)
    assert ours.keys() == exported.keys(), ours.keys() ^ exported.keys()
    for name, text in ours.items(): assert text == exported[name], f'{name}: run nbdev_export'

def test_clean_changes_nothing(copy):
    r = subprocess.run([BIN/'nbdev_clean'], cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    for f in NOTEBOOKS:
        cleaned = copy/f.relative_to(ROOT)
        assert json.loads(read(f)) == json.loads(read(cleaned)), f'{f.name}: run nbdev_clean'
