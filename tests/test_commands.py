"What README promises of the commands, on the smoke profile"
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENV = os.environ | {'VIPANT_PROFILE': 'smoke'}
REPRODUCE = ['reproduce', '--profile', 'smoke', '--only', 'table3_retrieval,table4_zero_shot']    # the other notebooks are run by nbdev_test

def run(*command, **kw):
    return subprocess.run([str(c) for c in command], cwd=kw.pop('cwd', ROOT), env=kw.pop('env', ENV), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=400)

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
    one_line(run(BIN/'vipant', 'run', '04_curation', '-p', 'sorce', 'vc'), "no parameter 'sorce': use one of source, profile, seed, override")
    one_line(run(BIN/'vipant', 'run', '04_curation', '-p', 'override', 'at.epoch=3'), "no field 'epoch'")

def test_data_folder_that_is_not_there():
    one_line(run(BIN/'vipant', 'reproduce', '--profile', 'paper', '--override', 'data.root=/nowhere'), "data root '/nowhere' is not a folder")

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    "A reproduction that was killed with all its processes after some work was done, then run again to its end"
    place = tmp_path_factory.mktemp('killed')
    env = ENV | {'VIPANT_RUNS': str(place/'runs'), 'VIPANT_FIGURES': str(place/'figures')}
    p = subprocess.Popen([BIN/'vipant', *REPRODUCE], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.time() + 200
    while not (place/'runs'/'smoke'/'va-rand-s0').exists():
        assert p.poll() is None and time.time() < end, 'the first run ended, or did not come to the training'
        time.sleep(.05)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    return place, env, r

def test_killed_and_run_again_gives_the_same_tables(killed):
    place, env, r = killed
    assert r.returncode == 0, r.stdout[-3000:] + r.stderr[-3000:]
    table = place/'figures'/'smoke'/'table3_retrieval.csv'
    assert table.exists() and (place/'figures'/'smoke'/'table4_zero_shot.md').exists()
    code = "from vipant.reproduce import results; print(results('smoke', 1).to_csv(float_format='%.6g'), end='')"
    whole = run(sys.executable, '-c', code).stdout      # of the runs in the checkout, which were not interrupted
    numbers = lambda d: d.drop(columns=['code']).reset_index(drop=True)
    mine = pd.read_csv(place/'figures'/'smoke'/'results.csv')
    theirs = pd.read_csv(pd.io.common.StringIO(whole[whole.index(',profile'):]), index_col=0)
    pd.testing.assert_frame_equal(numbers(mine), numbers(theirs), check_dtype=False)

def test_second_run_does_nothing(killed):
    place, env, _ = killed
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    assert r.returncode == 0 and r.stdout.startswith('nothing to do: profile smoke'), r.stdout + r.stderr

def test_a_lost_table_is_made_again(killed):
    place, env, _ = killed
    (place/'figures'/'smoke'/'table3_retrieval.md').unlink()
    r = run(BIN/'vipant', *REPRODUCE, env=env)
    assert (place/'figures'/'smoke'/'table3_retrieval.md').exists(), r.stderr
    assert 'table3_retrieval' in r.stdout and 'table4_zero_shot' not in r.stdout

def test_status(killed):
    place, env, _ = killed
    r = run(BIN/'vipant', 'status', '--profile', 'smoke', env=env)
    assert r.returncode == 0 and 'missing: nothing' in r.stdout and ' va-clip-s0\n' in r.stdout, r.stdout + r.stderr
