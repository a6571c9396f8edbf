"Notebooks and package agree, and the notebooks are fit to be read, cleaned and parametrised"
import json, re, shutil, subprocess, sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted([*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'nbs'/'paper').glob('*.ipynb')])
BIN = Path(sys.executable).parent

def test_there_are_notebooks():
    "nbdev_test passes when it finds none"
    assert len(NOTEBOOKS) >= 20

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(path):
    nb = nbformat.read(path, 4)
    nbformat.validate(nb)
    assert nb.nbformat_minor >= 5 and all(c.get('id') for c in nb.cells)
    assert nb.cells[0].cell_type == 'markdown' and nb.cells[0].source.startswith('# ')
    tagged = [c for c in nb.cells if 'parameters' in c.metadata.get('tags', [])]
    if path.parent.name == 'paper' or path.stem in ('04_curation', '06_classification'):
        assert len(tagged) == 1
        # papermill's help loses a line whose comment holds one of these
        assert not [l for l in tagged[0].source.splitlines() if re.search('[\'"=]', l.partition('#')[2])]
    assert not [o for c in nb.cells for o in c.get('outputs', []) if o.output_type == 'error']
    assert not re.search(r'/(home|root|work|tmp)/', path.read_text()), 'a path of somebody\'s machine'

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the checkout's notebooks, package and settings"
    to = tmp_path_factory.mktemp('checkout')
    for name in ('nbs', 'vipant'): shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('settings.ini', 'README.md', 'pyproject.toml'): shutil.copy(ROOT/name, to)
    return to

def test_export_changes_nothing(copy):
    r = subprocess.run([BIN/'nbdev_export'], cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    for f in sorted((ROOT/'vipant').glob('*.py')): assert f.read_text() == (copy/'vipant'/f.name).read_text(), f'{f.name}: run nbdev_export'
    assert {f.name for f in (copy/'vipant').glob('*.py')} == {f.name for f in (ROOT/'vipant').glob('*.py')}

def test_clean_changes_nothing(copy):
    r = subprocess.run([BIN/'nbdev_clean'], cwd=copy, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    for f in NOTEBOOKS: assert json.loads(f.read_text()) == json.loads((copy/f.relative_to(ROOT)).read_text()), f'{f.name}: run nbdev_clean'

def test_modules_import_one_way():
    "config, artifacts <- world | data <- preprocessing <- ... <- reproduce: no cycle, and no reader imports the world"
    imports = {f.stem: set(re.findall(r'^from \.(\w+) import', f.read_text(), flags=re.M)) for f in (ROOT/'vipant').glob('*.py')}
    seen = set()
    while len(seen) < len(imports):
        ready = {m for m, needs in imports.items() if m not in seen and needs & imports.keys() <= seen}
        assert ready, f'a cycle among {sorted(set(imports) - seen)}'
        seen |= ready
    # the rehearsal's data are made by the same writers at another size: it is a maker of data itself
    assert [m for m, needs in imports.items() if 'world' in needs] == ['rehearsal']
