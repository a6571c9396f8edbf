"What README promises of the commands, on the smoke profile"
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from vipant.engine.results_file import read_rows

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENV = os.environ | {'VIPANT_PROFILE': 'smoke'}
TABLES = 'table3_retrieval,table4_zero_shot'       # the other notebooks are run by nbdev_test
REPRODUCE = ['reproduce', '--profile', 'smoke', '--only', TABLES]

def run(*command, **kw):
    return subprocess.run([str(c) for c in command], cwd=kw.pop('cwd', ROOT), env=kw.pop('env', ENV),
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)

def one_line(r, text):
    "Exit code 1 and a single line on stderr that holds `text`"
    assert r.returncode == 1 and text in r.stderr and len(r.stderr.strip().splitlines()) == 1, r.stderr

def test_papermill_without_output_path(tmp_path):
    "The short form, from another folder, with stdout in a pipe: the executed notebook comes out"
    r = run(BIN/'papermill', ROOT/'nbs'/'04_curation.ipynb', '-p', 'source', 'vc', cwd=tmp_path)
    assert r.returncode == 0, r.stderr[-2000:]
    outputs = [o.get('data', {}) for c in json.loads(r.stdout)['cells'] for o in c.get('outputs', [])]
    assert any('image/png' in o for o in outputs)
    assert any('<audio' in ''.join(o.get('text/html', '')) for o in outputs)
    assert any('+AT w/ VC' in ''.join(o.get('text/html', '')) for o in outputs)
    assert not list(tmp_path.iterdir())

def test_wrong_source_is_told_by_papermill(tmp_path):
    r = run(BIN/'papermill', 'nbs/04_curation.ipynb', tmp_path/'o.ipynb', '-p', 'source', 'zz')
    assert r.returncode == 1 and 'use one of ac, fc, vc, rc, gl, gc' in r.stderr

def test_run_refuses_bad_input():
    known = "no parameter 'sorce': use one of source, profile, seed, override"
    one_line(run(BIN/'vipant', 'run', '04_curation', '-p', 'sorce', 'vc'), known)
    one_line(run(BIN/'vipant', 'run', '04_curation', '-p', 'override', 'at.epoch=3'), "no field 'epoch'")

def test_data_folder_that_is_not_there():
    r = run(BIN/'vipant', 'reproduce', '--profile', 'paper', '--override', 'data.root=/nowhere')
    one_line(r, "data root '/nowhere' is not a folder")

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    "A reproduction that was killed with all its processes after some work was done, then run again to its end"
    place = tmp_path_factory.mktemp('killed')
    env = ENV | {'VIPANT_RUNS': str(place/'runs'), 'VIPANT_FIGURES': str(place/'figures')}
    p = subprocess.Popen([BIN/'vipant', *REPRODUCE], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.time() + 900
    try:
        while not (place/'runs'/'smoke'/'va-rand-s0').exists():
            assert p.poll() is None and time.time() < end, 'the first run ended, or did not come to the training'
            time.sleep(.05)
    finally:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    return place, env, r

def test_killed_and_run_again_gives_the_same_tables(killed):
    place, env, r = killed
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    table = place/'figures'/'smoke-1seed'/'table3_retrieval.csv'
    assert table.exists() and (place/'figures'/'smoke-1seed'/'table4_zero_shot.md').exists()
    code = ("from vipant.engine.experiments import results; "
            "print(results('smoke', 1, '', 'scores').to_csv(float_format='%.6g'), end='')")
    r = run(sys.executable, '-c', code)     # of the runs in the checkout, which were not interrupted
    assert r.returncode == 0, r.stderr
    whole = r.stdout
    def numbers(d): return d[d.part == 'scores'].drop(columns=['code']).reset_index(drop=True)
    mine = pd.read_csv(place/'figures'/'smoke-1seed'/'results.csv')
    theirs = pd.read_csv(StringIO(whole[whole.index(',profile'):]), index_col=0)
    assert len(numbers(mine)) > 1000
    pd.testing.assert_frame_equal(numbers(mine), numbers(theirs), check_dtype=False)

def test_only_what_the_named_tables_read_was_made(killed):
    place, env, _ = killed
    made = {p.parent.name for p in (place/'runs'/'smoke').glob('*/provenance.json')}
    others = ('supervised', 'tagging', 'pivots', 'epochs')
    assert 'scores-at-gc-s0' in made and not [n for n in made if n.startswith(others)]

def test_second_run_does_nothing(killed):
    place, env, _ = killed
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    assert r.returncode == 0 and r.stdout.startswith('nothing to do: profile smoke'), r.stdout + r.stderr

def test_a_lost_table_is_made_again(killed):
    place, env, _ = killed
    (place/'figures'/'smoke-1seed'/'table3_retrieval.md').unlink()
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    assert (place/'figures'/'smoke-1seed'/'table3_retrieval.md').exists(), r.stderr
    assert 'table3_retrieval' in r.stdout and 'table4_zero_shot' not in r.stdout

@pytest.fixture
def checkout(tmp_path):
    "A checkout of its own, a git repository; what was published lies in its figures/smoke/"
    left_out, root = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'), tmp_path/'checkout'
    for name in ('nbs', 'vipant'): shutil.copytree(ROOT/name, root/name, ignore=left_out)
    for name in ('settings.ini', '.gitignore'): shutil.copy(ROOT/name, root)
    (root/'figures'/'smoke').mkdir(parents=True)
    return root

def git(root, *args):
    own = ['-c', 'user.name=x', '-c', 'user.email=x@x', '-c', 'core.hooksPath=/dev/null']
    return subprocess.run(['git', *own, *args], cwd=root, check=True, capture_output=True, text=True).stdout

def test_a_run_in_a_fresh_checkout_leaves_git_as_it_was(checkout):
    "Its tables go beside those that were published, of more seeds"
    published = checkout/'figures'/'smoke'/'table5_hyperparameters.md'
    published.write_text('of three seeds', encoding='utf-8')
    git(checkout, 'init', '-q')
    git(checkout, 'add', '-A')
    git(checkout, 'add', '-f', 'figures')
    git(checkout, 'commit', '-qm', 'x')
    env = {k: v for k, v in ENV.items() if k not in ('VIPANT_RUNS', 'VIPANT_FIGURES')} | {'VIPANT_ROOT': str(checkout)}
    r = run(BIN/'vipant', 'reproduce', '--profile', 'smoke', '--only', 'table5_hyperparameters', env=env, cwd=checkout)
    assert r.returncode == 0 and 'tables and figures are in figures/smoke-1seed' in r.stdout, r.stdout + r.stderr
    assert git(checkout, 'status', '--porcelain') == ''
    made = (checkout/'figures'/'smoke-1seed'/published.name).read_text(encoding='utf-8')
    assert published.read_text(encoding='utf-8') == 'of three seeds'
    assert 'make it again: `vipant reproduce --only table5_hyperparameters --profile smoke --seeds 1`' in made

def test_a_run_is_held_against_what_was_published(killed, checkout):
    place, env, _ = killed
    rows = read_rows(place/'figures'/'smoke-1seed'/'results.csv')
    def said(*seeds):
        published = pd.concat(seeds).assign(code='0.0.0+00000000')
        published.to_csv(checkout/'figures'/'smoke'/'results.csv', index=False, float_format='%.6g')
        r = run(BIN/'vipant', *REPRODUCE, env=env | {'VIPANT_ROOT': str(checkout)})
        assert r.returncode == 0, r.stderr
        return r.stdout[r.stdout.index('tables and figures are in'):]
    others, n = [rows.assign(seed=1), rows.assign(seed=2)], len(rows)
    assert f'{n} of {n} numbers are equal to those in ' in said(rows, *others)
    key = dict(protocol='honest', model='vip-AnT', dataset='AudioCaps', group='text->audio', metric='R@10')
    one = rows.index[(rows[[*key]] == key).all(axis=1)]
    assert len(one) == 1
    moved = rows.copy()
    moved.loc[one, 'value'] += .5
    text = said(moved, *others)
    assert f'{n - 1} of {n} numbers' in text and 'largest difference: 0.5 ' in text, text
    assert 'seed 0, scores, honest, vip-AnT, AudioCaps, text->audio, R@10' in text
    assert len(pd.read_csv(place/'figures'/'smoke-1seed'/'differences.csv')) == 1
    assert f'{n - 1} of {n - 1} numbers' in (text := said(rows.drop(one), *others)) and '; 1 are new' in text
    r = run(BIN/'vipant', *REPRODUCE, '--publish', env=env | {'VIPANT_ROOT': str(checkout)})
    one_line(r, 'a run of some notebooks is not published')

def test_a_table_is_drawn_before_what_it_does_not_read(killed):
    "Table 3 and what it needs come first; its page says which rows it shows"
    place, env, r = killed
    made = [l.split(' s  ')[1].strip() for l in r.stdout.splitlines() if ' s  ' in l]
    assert made.index('results.csv: scores') < made.index('table3_retrieval')
    text = (place/'figures'/'smoke-1seed'/'table3_retrieval.md').read_text(encoding='utf-8')
    assert 'rows of [results.csv](results.csv):' in text and '| scores | vip-AnT | honest | 8 | AudioCaps (24)' in text

def test_status(killed):
    place, env, _ = killed
    r = run(BIN/'vipant', 'status', '--profile', 'smoke', env=env)
    assert r.returncode == 0 and ' va-clip-s0\n' in r.stdout, r.stdout + r.stderr
    missing = r.stdout[r.stdout.index('missing: '):].splitlines()[0]
    assert 'supervised-esc50-va-fold1-s0' in missing and 'scores-va-clip-s0' not in missing

def test_check_finds_a_flipped_bit_and_what_is_damaged_is_made_again(killed):
    place, env, _ = killed
    assert run(BIN/'vipant', 'check', '--profile', 'smoke', env=env).returncode == 0
    norms = place/'runs'/'smoke'/'norms'/'norms.json'
    norms.write_text(norms.read_text(encoding='utf-8').replace('1', '2', 1), encoding='utf-8')
    r = run(BIN/'vipant', 'check', '--profile', 'smoke', env=env)
    assert r.returncode == 1 and 'norms: norms.json is not what was written' in r.stdout and '1 of' in r.stderr
    before = (place/'runs'/'smoke'/'texts'/'esc50-bare.npy').read_bytes()
    (place/'runs'/'smoke'/'texts'/'esc50-bare.npy').write_bytes(before[:-9])
    code = ("from vipant.engine.recipes import task_texts; from vipant.engine.config import profile; "
            "task_texts(profile('smoke')).make()")
    r = run(sys.executable, '-c', code, env=env)
    assert 'texts is damaged (esc50-bare.npy has' in r.stdout, r.stdout + r.stderr
    assert (place/'runs'/'smoke'/'texts'/'esc50-bare.npy').read_bytes() == before
    r = run(BIN/'vipant', 'clean', '--profile', 'smoke', env=env)
    assert r.stdout.startswith('1 folders removed'), r.stdout

def test_no_warning_of_other_code(killed):
    "What a run has made was made by this code"
    place, env, _ = killed
    code = ("from vipant.engine.experiments import wanted; from vipant.engine.config import profile; "
            f"[a.make() for a in wanted(profile('smoke'), '{TABLES}'.split(','))]")
    r = run(sys.executable, '-c', code, env=env)
    assert r.returncode == 0 and 'warning' not in r.stdout + r.stderr, r.stdout + r.stderr

def test_what_was_made_from_a_world_of_other_code_is_said(killed):
    "Whoever asks for scores hears of the world under them"
    place, env, _ = killed
    record = place/'runs'/'smoke'/'world'/'provenance.json'
    made = json.loads(record.read_text(encoding='utf-8'))
    record.write_text(json.dumps(made | dict(code='0.0.0+00000000')), encoding='utf-8')
    code = ("from vipant.engine.recipes import benchmark, va_training; from vipant.engine.config import profile; "
            "cfg = profile('smoke'); benchmark(cfg, va_training(cfg)).make()")
    r = run(sys.executable, '-c', code, env=env)
    assert r.returncode == 0 and "warning: made by other code than today's: world; " in r.stdout, r.stdout + r.stderr
