"CONTRIBUTING.md: its example runs, and what it names is there"
import ast
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vipant.engine import experiments, recipes

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')

def test_it_is_one_page():
    lines = TEXT.splitlines()
    assert len(lines) <= 120
    assert not [l for l in lines if len(l) > 120 and not l.startswith('|')]

def defined(file:Path) -> set:
    "Names that a python file defines at its top"
    found = set()
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.add(node.name)
        elif isinstance(node, ast.Assign): found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found

def is_there(name:str) -> bool:
    "Is `name` a path of the checkout, a test in it (FILE::TEST), a module of vipant, or what a module defines?"
    path, _, test = name.partition('::')
    if test: return (ROOT/path).is_file() and test in defined(ROOT/path)
    if (ROOT/name).exists(): return True
    whole, parts = ROOT/'vipant', name.split('.')
    if whole.joinpath(*parts).with_suffix('.py').is_file(): return True
    module = whole.joinpath(*parts[:-1]).with_suffix('.py')
    return module.is_file() and parts[-1] in defined(module)

EXAMPLE = {'nbs/models/majority.ipynb'}     # a file that the reader is told to make
PATHS, DOTTED = r'(?:nbs|tests|vipant|figures)/[\w/.:]+', r'[a-z_]+(?:\.\w+)*\.\w+'
NAMES = sorted(set(re.findall(f'`({PATHS}|{DOTTED})`', TEXT)) - EXAMPLE)

def test_names_are_found(): assert len(NAMES) > 30

@pytest.mark.parametrize('name', NAMES)
def test_what_it_names_is_there(name):
    assert is_there(name) or name == 'results.csv'

def test_a_lost_name_is_seen():
    assert not any(map(is_there, ('engine.recipes.NO_SUCH', 'tests/test_house.py::test_no_such', 'nbs/no_such.ipynb')))

@pytest.fixture
def esc50(tmp_path, monkeypatch):
    "A folder with six clips of ESC-50, three of them dogs; runs and figures go beside it"
    audio = tmp_path/'data'/'esc50'/'audio'
    audio.mkdir(parents=True)
    rows = ['filename,fold,target,category']
    for k, (target, label) in enumerate([(0, 'dog'), (1, 'rain'), (0, 'dog'), (0, 'dog'), (2, 'bell'), (1, 'rain')]):
        (audio/f'{k}.wav').write_bytes(b'')
        rows.append(f'{k}.wav,{k%5 + 1},{target},{label}')
    (tmp_path/'data'/'esc50'/'meta').mkdir()
    (tmp_path/'data'/'esc50'/'meta'/'esc50.csv').write_text('\n'.join(rows) + '\n', encoding='utf-8')
    for name in ('RUNS', 'FIGURES'): monkeypatch.setenv(f'VIPANT_{name}', str(tmp_path/name.lower()))
    monkeypatch.delenv('VIPANT_OVERRIDE', raising=False)
    return tmp_path/'data'

def test_the_example_runs(esc50, monkeypatch):
    monkeypatch.setitem(sys.modules, 'vipant.models.majority', ModuleType('vipant.models.majority'))
    monkeypatch.setattr(experiments, 'RUNS', [])        # the others would be trained
    for module in (recipes, experiments): monkeypatch.setattr(module, 'majority_benchmark', None, raising=False)
    blocks = re.findall(r'^```python\n# in ([\w.]+)\n(.*?)^```', TEXT, flags=re.M | re.S)
    assert [m for m, _ in blocks] == ['vipant.models.majority', 'vipant.engine.recipes', 'vipant.engine.experiments']
    for name, code in blocks: exec(compile(code, name, 'exec'), vars(sys.modules[name]))

    rows = experiments.results('smoke', 1, f'data.root={esc50}', 'scores').set_index('protocol')
    assert [*rows.index] == ['honest', 'paper'] and {*rows.model} == {'majority'} and {*rows.dataset} == {'ESC50'}
    assert {*rows.value} == {.5} and {*rows.n} == {6}
    assert (rows.ci_low < .5).all() and (rows.ci_high > .5).all()
    files = [p.parent.name for p in (esc50.parent/'runs').rglob('rows.csv')]
    assert len(files) == 1 and files[0].startswith('scores-majority+data-')
