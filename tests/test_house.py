"What holds the house together: which way imports go and what they cost, style, public names, artifacts' names and keys"
import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin

import nbformat
import pytest
from pydantic import BaseModel

from vipant.engine.artifacts import Artifact
from vipant.engine.config import PARAMETERS, Profile, profile
from vipant.engine.experiments import wanted
from vipant.engine.jobs import closure

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

# ---- imports go one way

BASE = tuple(f'engine.{m}' for m in ('config', 'runtime', 'given_data', 'artifacts', 'checkpoints', 'recipes'))
FRONT = tuple(f'engine.{m}' for m in (
    'experiments', 'jobs', 'notebooks', 'results_file', 'published', 'report', 'reproduce', 'cli',
    'sound_commands'))
LAYERS = (      # lowest first: a module imports its own layer, without cycles, and lower ones
    BASE,
    ('world.*', 'data.*', 'measures.*'),
    ('preprocessing', 'encoder', 'training', 'evaluation'),
    ('frozen.*',),
    ('curation',),
    ('models.*', 'released'),
    ('classification', 'pivotability', 'supervision', 'listen', 'studies.*', 'use.*'))
SHOWS = tuple(f'engine.{m}' for m in ('results_file', 'report', 'experiments', 'jobs'))     # what studies use of FRONT

def listed(found) -> str:
    "What an assertion shows: a line each"
    lines = [f'{k}: {v}' for k, v in found.items()] if isinstance(found, dict) else found
    return '\n'.join(['', *lines])

class Import(NamedTuple):
    "`module` imports `target`, both as vipant.x.y, or some `names` of it, in `line`; `inside` a function?"
    module: str
    target: str
    names: tuple
    line: int
    inside: bool

def modules_of(package:Path) -> dict:
    "Dotted name -> file of every module below the folder `package`, whose own name comes first; no __init__"
    files = (f for f in sorted(package.rglob('*.py')) if f.stem not in ('__init__', '_modidx'))
    return {'.'.join(f.relative_to(package.parent).with_suffix('').parts): f for f in files}

def imports_of(package:Path) -> list:
    "Every `Import` of one module of the package by another, those inside functions too"
    modules, found = modules_of(package), []
    for module, file in modules.items():
        tree = ast.parse(file.read_text(encoding='utf-8'))
        functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        inside = {id(n) for f in functions for n in ast.walk(f)}
        for node in ast.walk(tree):
            found += [Import(module, *t, node.lineno, id(node) in inside) for t in _targets(node, module, modules)]
    return found

def _targets(node, module, modules) -> list:
    "(target, names) of an import statement of `module`, as far as they are of its own package"
    top = module.split('.')[0]
    if isinstance(node, ast.Import): return [(a.name, ()) for a in node.names if a.name.startswith(f'{top}.')]
    if not isinstance(node, ast.ImportFrom): return []
    above = module.split('.')[:-node.level] if node.level else []
    base, names = '.'.join([*above, *filter(None, [node.module])]), [a.name for a in node.names]
    if base.split('.')[0] != top: return []
    if base in modules: return [(base, tuple(names))]
    below = [f'{base}.{n}' for n in names]      # of a folder: its modules
    return [(b, ()) for b in below if base != top or b in modules]      # of the package itself perhaps __version__

def names_in(file:Path) -> set:
    "What a module defines or imports at its top"
    found = set()
    for top in ast.parse(file.read_text(encoding='utf-8')).body:
        defined = isinstance(top, (ast.FunctionDef, ast.ClassDef))
        for node in [top] if defined else ast.walk(top):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)): found.add(node.name)
            elif isinstance(node, ast.alias): found.add(node.asname or node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): found.add(node.id)
    return found

def layer(name:str) -> int|None:
    "The number of a module's layer, None if it has none; `name` without the package's"
    return next((k for k, names in enumerate(LAYERS) if any(fnmatch(name, n) for n in names)), None)

def wrong(i:Import) -> str:
    "Why an import goes the wrong way, '' if it does not"
    module, target = (n.partition('.')[2] for n in (i.module, i.target))
    if module.startswith('world.') and not target.startswith('world.') and target != 'engine.runtime':
        return 'world imports nothing but world, and how processes are started'
    if target.startswith('world.') and not module.startswith('world.') and module != 'studies.rehearsal':
        return 'nobody but studies.rehearsal imports world'
    if module in FRONT:
        lazy = module in ('engine.cli', 'engine.sound_commands') and i.inside
        return '' if lazy or target in BASE + FRONT else 'this part of engine is free of torch: it imports engine alone'
    if target in FRONT:
        return '' if module.startswith('studies.') and target in SHOWS else 'it lies above all models and chapters'
    for name in (module, target):
        if layer(name) is None: return f'{name} has no place among the layers: give it one here and in CONTRIBUTING.md'
    return 'it lies in a higher layer' if layer(target) > layer(module) else ''

def cycle_of(imports:list) -> list:
    "The modules of a cycle in their order, the first again at the end; [] if there is none"
    needs = {}
    for i in imports: needs.setdefault(i.module, set()).add(i.target)
    done = set()
    def visit(module, path):
        if module in path: return [*path[path.index(module):], module]
        if module in done: return []
        found = next((c for n in sorted(needs.get(module, ())) if (c := visit(n, [*path, module]))), [])
        done.add(module)
        return found
    return next((c for m in sorted(needs) if (c := visit(m, []))), [])

def complaints(package:Path) -> list:
    "A line for each import of the package that goes the wrong way or nowhere, and one for a cycle"
    modules, imports, lines = modules_of(package), imports_of(package), []
    names = {m: names_in(f) for m, f in modules.items()}
    for i in imports:
        where = f'{modules[i.module].relative_to(package.parent)}, line {i.line}: imports {i.target}'
        lost = ', '.join(n for n in i.names if n not in names.get(i.target, ()) and n != '*')
        if i.target not in modules: lines.append(f'{where}, which is not there')
        elif why := wrong(i): lines.append(f'{where}: {why}')
        elif lost: lines.append(f'{where}, which has no {lost}')
    cycle = cycle_of(imports)
    return lines + [f'a cycle: {" -> ".join(cycle)}']*bool(cycle)

def test_imports_go_one_way():
    found = complaints(ROOT/'vipant')
    assert not found, listed(found)

def test_every_module_has_its_layer():
    names = [m.partition('.')[2] for m in modules_of(ROOT/'vipant')]
    assert not [n for n in names if n not in FRONT and layer(n) is None]

WRONG = {       # the made-up module, its text, what is said of it
    'the next layer': ('encoder', 'from .models.trainings import x', 'encoder.py, line 1: imports vipant.models'),
    'inside a function': ('data/layouts', 'def f():\n  from vipant.frozen.towers import x', 'layouts.py, line 2'),
    'by its folder': ('frozen/towers', 'from ..models import trainings', 'trainings: it lies in a higher layer'),
    'a plain import': ('curation', 'import vipant.models.trainings', 'curation.py, line 1'),
    'the world': ('data/layouts', 'from ..world.files import x', 'nobody but studies.rehearsal imports world'),
    'by the world': ('world/files', 'from ..engine.config import x', 'world imports nothing but world, and'),
    'torch for the list of runs': ('engine/experiments', 'def f(): from ..encoder import x', 'free of torch'),
    'a heavy command line': ('engine/cli', 'from ..encoder import x', 'free of torch'),
    'a model that reports': ('models/trainings', 'from ..engine.report import x', 'above all models'),
    'a study that reproduces': ('studies/claim_list', 'from ..engine.reproduce import x', 'above all models'),
    'no such module': ('encoder', 'from .clip import x', 'vipant.clip.x, which is not there'),
    'no such name': ('frozen/towers', 'from ..encoder import x, y', 'vipant.encoder, which has no y'),
    'a module without a layer': ('other', 'from .encoder import x', 'other has no place among the layers'),
    'a cycle': ('models/trainings', 'x = 1\nfrom .benchmark import x', 'models.benchmark -> vipant.models.trainings'),
}

@pytest.mark.parametrize('case', WRONG)
def test_the_check_sees(case, tmp_path):
    plain = ('encoder curation data/layouts world/files frozen/towers models/trainings studies/claim_list '
             'engine/config engine/report engine/reproduce engine/experiments').split()
    files = {name: 'x = 1' for name in plain} | {
        'models/benchmark': 'from .trainings import x', 'studies/rehearsal': 'from ..world.files import x',
        'engine/cli': 'def f(): from vipant.models.trainings import x'}
    def write(name, text):
        file = tmp_path/'vipant'/f'{name}.py'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding='utf-8')
    for name, text in files.items(): write(name, text)
    assert complaints(tmp_path/'vipant') == []
    module, text, said = WRONG[case]
    write(module, text)
    found = complaints(tmp_path/'vipant')
    assert len(found) == 1 and said in found[0]

# ---- what an import costs

def run_python(code:str, *options, **env) -> subprocess.CompletedProcess:
    "Run `code` in a new process, in the checkout; AssertionError with what it said if it failed"
    env = {k: v for k, v in os.environ.items() if not k.startswith('VIPANT_')} | env
    r = subprocess.run([sys.executable, *options, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    return r

def imported_by(module:str) -> set:
    "Top-level names of all that `import module` imports in a new process"
    lines = run_python(f'import {module}', '-X', 'importtime').stderr.splitlines()
    return {line.split('|')[-1].strip().split('.')[0] for line in lines if line.startswith('import time:')}

SLOW = {'torch', 'pandas', 'matplotlib', 'datasets', 'open_clip', 'transformers', 'torchvision'}

@pytest.mark.parametrize('module, without', [
    ('vipant.engine.cli', SLOW), ('vipant.engine.experiments', SLOW), ('vipant.engine.recipes', SLOW),
    ('vipant.engine.report', SLOW - {'pandas', 'matplotlib', 'torchvision'})])
def test_an_import_is_light(module, without):
    found = imported_by(module)
    assert 'vipant' in found and not found & without

def test_no_module_imports_a_model_zoo_before_it_is_used():
    code = [f'import {m}' for m in modules_of(ROOT/'vipant')]
    code += ['import sys', 'print(*{"open_clip", "transformers", "torchvision"} & {*sys.modules})']
    assert run_python('\n'.join(code)).stdout.split() == []

def reads_results(notebook) -> bool:
    "Does it import `results`, the door to results.csv?"
    return any(re.search(r'import .*\bresults\b', c.source) for c in notebook.cells if c.cell_type == 'code')

def test_a_notebook_that_reads_results_imports_no_torch():
    notebooks = {p.stem: nbformat.read(p, 4) for p in NOTEBOOKS if p.parent.name == 'paper'}
    imports = {name: [c.source for c in nb.cells if c.cell_type == 'code' and imports_only(c.source)]
               for name, nb in notebooks.items() if reads_results(nb)}
    assert {'claims', 'figure7_supervision', 'table3_retrieval', 'table8_position'} <= imports.keys()
    code = ['import sys', 'heavy, seen = {"torch", "open_clip", "transformers", "torchvision"}, set()']
    for name, cells in imports.items():
        code += [*cells, f'new = heavy & {{*sys.modules}} - seen; seen |= new; print(*[f"{name}: {{m}}" for m in new])']
    assert run_python('\n'.join(code)).stdout.split('\n')[:-1] == ['']*len(imports)

def imports_only(source:str) -> bool:
    "Is it a cell of imports?"
    try: body = ast.parse(source).body
    except SyntaxError: return False
    return bool(body) and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)

# ---- style

def test_ruff_finds_nothing():
    if find_spec('ruff') is None: pytest.skip('ruff is not installed: make setup installs it')
    r = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--output-format', 'concise', 'nbs', 'vipant', 'tests'],
                       cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stdout[-4000:] + r.stderr

def test_a_cell_has_at_most_30_lines():
    cells = [(p, c) for p in NOTEBOOKS for c in nbformat.read(p, 4).cells if c.cell_type == 'code']
    long = {f'{p.relative_to(ROOT)} {c.id}': n for p, c in cells if (n := len(c.source.splitlines())) > 30}
    assert not long, listed(long)

def without_encoding(tree) -> list:
    "Lines of a syntax tree that open a file as text and do not say its encoding"
    lines = []
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        method, name = getattr(call.func, 'attr', ''), getattr(call.func, 'id', '')
        at = dict(open=1).get(name, dict(open=0, read_text=None, write_text=None).get(method, -1))
        if at == -1 or any(k.arg in ('encoding', None) for k in call.keywords): continue
        given = {k.arg: k.value for k in call.keywords}.get('mode')
        mode = given or (call.args[at] if at is not None and len(call.args) > at else None)
        if method == 'open' and not (mode is None or (isinstance(mode, ast.Constant) and len(str(mode.value)) < 4)):
            continue        # of another thing: Image.open(path)
        if not (isinstance(mode, ast.Constant) and 'b' in str(mode.value)): lines.append(call.lineno)
    return lines

def test_what_opens_text_without_an_encoding_is_found():
    code = ('open(p)\nopen(p, "w")\np.read_text()\np.write_text(t)\np.open()\np.open("a")\n'
            'open(p, "rb")\np.read_text(encoding="utf-8")\nopen(p, mode="wb")\nwrite_text(p, t)\nImage.open(p)\n'
            'p.open("rb")')
    assert without_encoding(ast.parse(code)) == [1, 2, 3, 4, 5, 6]

def test_all_text_is_utf8():
    sources = {p.relative_to(ROOT): p.read_text(encoding='utf-8')
               for folder in ('vipant', 'tests') for p in sorted((ROOT/folder).rglob('*.py'))}
    for p in NOTEBOOKS: sources |= {f'{p.relative_to(ROOT)} {c.id}': c.source for c in nbformat.read(p, 4).cells
                                    if c.cell_type == 'code'}
    found = {str(k): without_encoding(ast.parse(source)) for k, source in sources.items()}
    assert not (bad := {k: lines for k, lines in found.items() if lines}), listed(bad)

def test_nbs_holds_ten_chapters_and_the_wings():
    visible = [p for p in (ROOT/'nbs').iterdir() if not p.name.startswith(('.', '_'))]
    assert [p.name[:3] for p in sorted(visible) if p.is_file()] == [f'{k:02}_' for k in range(10)]
    assert all(p.suffix == '.ipynb' for p in visible if p.is_file())
    wings = {'world', 'data', 'measures', 'frozen', 'models', 'studies', 'use', 'engine', 'paper'}
    assert {p.name for p in visible if p.is_dir()} == wings

def test_readme_lists_every_notebook():
    rows = [l for l in (ROOT/'README.md').read_text(encoding='utf-8').splitlines() if l.startswith('|')]
    linked = {m for row in rows for m in re.findall(r'\]\((nbs/[^)#]+\.ipynb)\)', row)}
    there = {p.relative_to(ROOT).as_posix() for p in NOTEBOOKS}
    missing = [f'{p} is in no table of README.md' for p in sorted(there - linked)]
    missing += [f'{p} is in README.md and is not there' for p in sorted(linked - there)]
    assert not missing, listed(missing)

# ---- names that others rely on

@pytest.mark.parametrize('module, names', [
    ('preprocessing', 'fbank'), ('encoder', 'AudioEncoder'), ('training', 'LARS lars_groups lr_factor InfoNCE'),
    ('evaluation', 'retrieval zero_shot mean_average_precision va_retrieval'), ('curation', 'mine'),
    ('released', 'load config')])
def test_public_names_stay(module, names):
    found = importlib.import_module(f'vipant.{module}')
    assert [n for n in names.split() if not hasattr(found, n)] == []

# ---- an artifact's name covers its key

@pytest.fixture
def places(monkeypatch, tmp_path):
    "No settings from outside; nothing is written but below tmp_path"
    for name in [n for n in os.environ if n.startswith('VIPANT_')]: monkeypatch.delenv(name)
    monkeypatch.setenv('VIPANT_RUNS', str(tmp_path/'runs'))
    return tmp_path

def leaves(section:BaseModel, head='') -> list:
    "(dotted name, value, type) of every field of a profile"
    found = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel): found += leaves(value, f'{head}{name}.')
        else: found.append((head + name, value, field.annotation))
    return [f for f in found if f[0] not in PARAMETERS]

def another(value, kind=None):
    "A value of the same kind"
    if get_origin(kind) is Literal: return next(v for v in get_args(kind) if v != value)
    if value is None: return 1
    if isinstance(value, bool): return not value
    if isinstance(value, int): return value + 1
    if isinstance(value, float): return 2*value or .5
    if isinstance(value, str): return value + 'x'
    return [another(value[0]), *value[1:]] if value else [1]

def as_text(value) -> str: return value if isinstance(value, str) else json.dumps(value)

def keys_by_name(artifacts) -> dict:
    "name -> keys of all `artifacts` and of all that they need, given data too; not by `closure`, which goes by names"
    found, seen, todo = {}, set(), list(artifacts)
    while todo:
        a = todo.pop()
        if id(a) in seen: continue
        seen.add(id(a))
        found.setdefault(a.name, set()).add(a.key)
        if isinstance(a, Artifact): todo += a.inputs.values()
    return found

def compared(known:dict, cfg:Profile) -> tuple:
    "(names that stand for two keys, here or here and in `known`; names that `known` lacks)"
    found = keys_by_name(wanted(cfg))
    return [n for n, keys in found.items() if len(keys | known.get(n, set())) > 1], found.keys() - known.keys()

def test_every_setting_that_changes_a_key_changes_the_name(places):
    (places/'data').mkdir()
    chosen = {'data.root': str(places/'data'), 'towers.model': 'ViT-B-32-quickgelu',    # others are no folder, no model
              'curation.gold_share': '.3'} | {f'{s}.momentum': '.5' for s in ('va', 'at', 'esc50', 'us8k')}
    adam = [s for s in type(profile('mini')).model_fields if s.startswith(('audioset_', 'ast_'))]
    chosen |= {f'{s}.beta1': '.5' for s in adam} | {f'{s}.gamma': '.6' for s in adam}
    chosen |= {name: '.6' for name, *_ in leaves(profile('mini')) if name.endswith('.decay')}
    fields = sorted(leaves(profile('mini')), key=lambda f: f[0] == 'data.root')     # last: keys look at it from then on
    known, unfit, idle = keys_by_name(wanted(profile('mini'))), {}, []
    for name, value, kind in fields:
        item = f'{name}={as_text(chosen.get(name) or another(value, kind))}'
        cfg = profile('mini', override=shlex.quote(item))
        try: two, new = compared(known, cfg)
        except Exception as e: two, new = f'{type(e).__name__}: {e}', True
        if two: unfit[item] = two
        if not new: idle.append(name)
    assert not unfit, listed(unfit)
    assert len(fields) >= 80
    assert idle == ['released.url']     # in no name: it is read only with released.weights=released

@pytest.mark.parametrize('seed, override', [
    (1, ''), (0, 'at.epochs=9 curation.gold_share=.5'), (1, "evaluation.prompt='a sound of' va.epochs=9"),
    (0, 'released.weights=released'), (0, 'released.weights=released released.url=http://localhost')])
def test_a_name_stands_for_one_key(places, seed, override):
    known = keys_by_name(wanted(profile('mini')))
    assert not [n for n, keys in known.items() if len(keys) > 1]
    assert known.keys() == closure(wanted(profile('mini'))).keys()
    two, new = compared(known, profile('mini', seed, override))
    assert not two and new

def test_every_builder_is_there(places):
    modules, lost = modules_of(ROOT/'vipant'), {}
    every = [a for override in ('', 'released.weights=released') for a in wanted(profile('mini', override=override))]
    for name, artifact in closure(every).items():
        module, function = artifact.builder.split(':')
        if module not in modules or function not in names_in(modules[module]): lost[name] = artifact.builder
    assert not lost, listed(lost)

# ---- given data

FOLDERS = ('audioset', 'audiocaps', 'clotho', 'esc50/audio', 'urbansound8k', 'coco')

ASK = """
import json, sys
from vipant.engine.config import profile
from vipant.engine.recipes import at_training, benchmark, fold_training, folds_benchmark, va_training
cfg = profile('paper')
found = dict(fold=fold_training(cfg, 'esc50', 'va', 1), folds=folds_benchmark(cfg, 'esc50', 'va'),
             other_folds=folds_benchmark(cfg, 'us8k', 'va'), va=va_training(cfg), vc=at_training(cfg, 'vc'),
             gc=at_training(cfg, 'gc'), benchmark=benchmark(cfg, va_training(cfg)))
keys = {name: a.key for name, a in found.items()}
"""

@pytest.fixture
def given(places, monkeypatch):
    "A folder of data sets, a file in each, as `$VIPANT_DATA`"
    for name in FOLDERS:
        (places/'data'/name).mkdir(parents=True)
        (places/'data'/name/'one').write_text('as it was', encoding='utf-8')
    monkeypatch.setenv('VIPANT_DATA', str(places/'data'))
    return places/'data'

def asked() -> dict:
    "Keys, reckoned in this process"
    names = {}
    exec(ASK, names)
    return names['keys']

def asked_anew(given) -> dict:
    "Keys, reckoned in a new process"
    code = f'{ASK}\nprint(json.dumps(keys))'
    return json.loads(run_python(code, VIPANT_DATA=str(given), VIPANT_RUNS=str(given.parent/'runs')).stdout)

def changed(before:dict, after:dict) -> set: return {name for name in before if before[name] != after[name]}

@pytest.mark.parametrize('folder, what', [
    ('esc50/audio', {'fold', 'folds', 'benchmark'}), ('urbansound8k', {'other_folds', 'benchmark'}), ('coco', {'vc'}),
    ('audiocaps', {'gc', 'vc', 'benchmark'}),
    ('audioset', {'fold', 'folds', 'other_folds', 'va', 'vc', 'gc', 'benchmark'})])
def test_a_replaced_file_changes_the_keys_of_what_reads_it(given, folder, what):
    before = asked()
    assert asked() == before
    (given/'new').write_text('another', encoding='utf-8')
    (given/'new').replace(given/folder/'one')
    assert changed(before, asked()) == what

def test_a_new_process_notices_what_was_written_in_place(given):
    before, file = asked_anew(given), given/'esc50'/'audio'/'one'
    assert asked_anew(given) == before
    times = file.stat()
    file.write_text('as it is!', encoding='utf-8')    # as long as before
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1_000_000))
    assert changed(before, asked_anew(given)) == {'fold', 'folds', 'benchmark'}
