"What is typed is what is meant: values by the type of their field or parameter, ranges, and one line for all else"
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from papermill.cli import _resolve_type
from pydantic import BaseModel, ValidationError

from vipant.engine import cli
from vipant.engine.config import PARAMETERS, PROFILES, Profile, profile, whole_number
from vipant.engine.notebooks import find_notebook, read_parameters

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in ('VIPANT_OVERRIDE', 'VIPANT_DEBUG'): monkeypatch.delenv(name, raising=False)

def refusal(f, *args, **kw) -> str:
    "The line of the ValueError that `f` raises"
    with pytest.raises(ValueError) as e: f(*args, **kw)
    said = str(e.value)
    assert len(said.splitlines()) == 1
    return said

# ---- overrides are read by the type of the field

@pytest.mark.parametrize('override, value', [
    ('at.epochs=010', 10), ('at.epochs=08', 8), ('at.epochs=1e1', 10), ('at.epochs=10.0', 10),
    ('lm.captions=1e6', 1_000_000), ('lm.captions=100_000', 100_000),
    ('towers.lr=2e-3', .002), ('towers.lr=1', 1.), ('va.warmup_epochs=02.5', 2.5),
    ('fbank.pad_value=-15.9424', -15.9424),
    ('evaluation.prompt=no', 'no'), ('evaluation.prompt=2024', '2024'), ('evaluation.prompt=1e6', '1e6'),
    ('evaluation.prompt={', '{'), ("evaluation.prompt='a sound of'", 'a sound of'), ('evaluation.prompt=null', 'null'),
    ('evaluation.prompt=', ''), ('evaluation.prompt=a=b', 'a=b'), ('evaluation.cosine=true', True),
    ('evaluation.cosine=True', True), ('evaluation.clotho_prompt=FALSE', False),
    ('fbank.mean=none', None), ('fbank.mean=', None), ('fbank.mean=null', None), ('fbank.std=2', 2.),
    ('audioset_balanced.tuned_layers=None', None), ('audioset_balanced.tuned_layers=03', 3),
    ('va.logit_scale=clip', 'clip'), ('encoder.channels=1', 1),
    ('encoder.stride=16,24', [16, 24]), ("'encoder.stride=[16, 24]'", [16, 24]), ('encoder.stride=[010,08]', [10, 8]),
    ('audioset_balanced.milestone_epochs=[]', []), ('audioset_balanced.milestone_epochs=3', [3]),
    ('world.us8k_seconds=1,2e0', [1., 2.])])
def test_a_value_is_read_by_its_field(override, value):
    found = profile('mini', override=override).value(override.strip("'").partition('=')[0])
    assert found == value and type(found) is type(value)

@pytest.mark.parametrize('override, said', [
    ('at.epochs=[', "at.epochs='[' is not valid: expected a whole number of at least 1"),
    ('at.epochs=8.5', "at.epochs='8.5' is not valid: expected a whole number of at least 1"),
    ('at.epochs=8.0000000000000000001', 'expected a whole number of at least 1'),
    ('at.epochs=1e99999999999', 'expected a whole number'), ('at.epochs=true', 'expected a whole number'),
    ('at.epochs=', "at.epochs='' is not valid: expected a whole number of at least 1"),
    ('towers.lr=fast', "towers.lr='fast' is not valid: expected a number above 0"),
    ('evaluation.cosine=no', "evaluation.cosine='no' is not valid: expected true or false"),
    ('evaluation.cosine=1', 'expected true or false'), ('va.logit_scale=warm', 'expected one of fresh, clip'),
    ('encoder.channels=2', "encoder.channels='2' is not valid: expected one of 1, 3"),
    ('encoder.stride=8', 'expected 2 values, as in 8,12, each a whole number of at least 1'),
    ('encoder.stride=[8', "encoder.stride='[8' is not valid"), ("at.epochs='", 'cannot be read: no closing quotation'),
    ('epochs=3', "no field 'epochs' in 'epochs': use one of threads, or one of a section, as in at.epochs=3"),
    ('at.epochs.x=3', "no section 'epochs'"), ('at=3', "no field 'at'"), ('5', "override '5' has no value")])
def test_what_cannot_be_read_is_one_line(override, said):
    assert said in refusal(profile, 'mini', 0, override)

def test_the_environment_is_read_in_the_same_way(monkeypatch):
    monkeypatch.setenv('VIPANT_OVERRIDE', 'at.epochs=010 evaluation.prompt=no')
    assert profile('mini').at.epochs == 10 and profile('mini').evaluation.prompt == 'no'
    monkeypatch.setenv('VIPANT_OVERRIDE', 'at.epochs=[')
    assert "at.epochs='['" in refusal(profile, 'mini')

def test_another_spelling_is_the_same_setting():
    same = profile('mini', override='at.epochs=9 towers.lr=.004 encoder.stride=16,24').digest()
    assert same == profile('mini', override="at.epochs=09 towers.lr=4e-3 'encoder.stride=[16, 24]'").digest()
    for name in PROFILES: assert profile(name, override='towers.lr=2e-3').digest() == profile(name).digest()

# ---- ranges

RANGES = {
    'at.epochs=0': 'a whole number of at least 1', 'va.epochs=-1': 'a whole number of at least 1',
    'towers.epochs=0': 'a whole number of at least 1', 'lm.epochs=0': 'a whole number of at least 1',
    'at.batch_size=0': 'a whole number of at least 1', 'us8k.batch_size=-4': 'a whole number of at least 1',
    'va.lr_weight=nan': 'a number above 0', 'va.lr_bias=0': 'a number above 0', 'towers.lr=inf': 'a number above 0',
    'audioset_balanced.lr=0': 'a number above 0', 'va.lr_weight=-1': 'a number above 0',
    'fbank.std=0': 'none or a number above 0', 'fbank.mean=nan': 'none or a finite number',
    'fbank.pad_value=inf': 'a finite number', 'fbank.n_mels=0': 'a whole number of at least 1',
    'fbank.frame_shift=0': 'a number above 0', 'fbank.freq_mask=-1': 'a whole number of at least 0',
    'curation.top_k=0': 'a whole number of at least 1', 'curation.gold_share=2': 'a number above 0 and at most 1',
    'curation.gold_share=0': 'a number above 0 and at most 1', 'encoder.stride=0,0': 'a whole number of at least 1',
    'threads=-1': 'a whole number of at least 0', 'data.max_unreadable=nan': 'a number of at least 0 and at most 1',
    'data.max_unreadable=1.01': 'a number of at least 0 and at most 1', 'va.momentum=1': 'of at least 0 and below 1',
    'world.n_web=-1': 'a whole number of at least 0', 'world.seed=-1': 'a whole number of at least 0',
    'world.us8k_seconds=0,1': 'each a number above 0', 'evaluation.n_bootstrap=0': 'a whole number of at least 1',
    'at.warmup_epochs=9': 'at most epochs=8, so change both', 'at.epochs=2': 'at most epochs=2, so change both'}

@pytest.mark.parametrize('override', RANGES)
def test_a_value_out_of_range_is_refused(override):
    said = refusal(profile, 'mini', 0, override)
    assert said.endswith(RANGES[override]) and said.startswith(override.partition('.')[0]), said
    assert 'is not valid: expected' in said

def test_a_value_at_the_edge_is_taken():
    p = profile('mini', override='at.epochs=3 curation.gold_share=1 data.max_unreadable=0 threads=0 fbank.resample=0 '
                                 'audioset_balanced.tuned_layers=0 curation.top_k=1 va.warmup_epochs=20')
    assert (p.at.epochs, p.at.warmup_epochs, p.va.warmup_epochs) == (3, 3, 20)

def numbers(section, head='') -> list:
    "(dotted name, value) of every number of a profile"
    found = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel): found += numbers(value, f'{head}{name}.')
        elif isinstance(value, (int, float)) and not isinstance(value, bool): found.append((head + name, value))
    return [f for f in found if f[0] not in PARAMETERS]

@pytest.mark.parametrize('wrong', ['nan', 'inf', '-inf', 'x', '-1e9'])
def test_no_number_is_without_a_range(wrong):
    unbounded = {'fbank.pad_value', 'fbank.mean'}       # a log-mel may be negative
    fields = [name for name, _ in numbers(profile('paper')) if wrong != '-1e9' or name not in unbounded]
    assert len(fields) > 90
    for name in fields: assert name in refusal(profile, 'paper', 0, f'{name}={wrong}')

def test_all_profiles_stand_in_their_ranges():
    for name in PROFILES: Profile(**profile(name).model_dump())
    with pytest.raises(ValidationError): Profile(name='x', threads=-1)

@pytest.mark.parametrize('seed', [-1, True, 1.5, float('nan'), None, 'x', 2**32, ''])
def test_a_seed_is_a_whole_number(seed):
    assert f'seed={seed!r} is not valid: expected a whole number of at least 0' in refusal(profile, 'mini', seed)

# ---- notebooks: `vipant run -p` and papermill agree

@pytest.mark.parametrize('notebook, name, text, value', [
    ('plan', 'gpus', '010', 10), ('plan', 'gpus', '08', 8), ('plan', 'gpus', '1e6', 1_000_000),
    ('plan', 'gpu_tflops', '3e2', 300.), ('plan', 'utilisation', '1', 1.),
    ('06_classification', 'data_root', '2024', '2024'), ('06_classification', 'data_root', '007', '007'),
    ('04_curation', 'source', 'no', 'no'), ('04_curation', 'source', '{', '{'), ('04_curation', 'source', '1e6', '1e6'),
    ('04_curation', 'source', 'True', 'True'), ('04_curation', 'override', 'at.epochs=4', 'at.epochs=4')])
def test_a_parameter_is_read_by_its_default(notebook, name, text, value):
    found = read_parameters(find_notebook(notebook), [(name, text)])
    assert found == {name: value} and type(found[name]) is type(value)

@pytest.mark.parametrize('notebook, name, text', [
    ('plan', 'gpus', 'many'), ('plan', 'gpus', '1.5'), ('plan', 'gpus', ''), ('plan', 'utilisation', 'nan'),
    ('04_curation', 'seed', '['), ('04_curation', 'seed', 'True')])
def test_a_wrong_parameter_is_one_line(notebook, name, text):
    said = refusal(read_parameters, find_notebook(notebook), [(name, text)])
    assert said.startswith(f'{notebook}: {name}={text!r} is not valid: expected a ')

def outcome(f, *args):
    "What `f` gives, 'refused' for a ValueError"
    try: return f(*args)
    except ValueError: return 'refused'

def both_ways(name, text, use):
    "What a notebook makes of the parameter `name`, started by `vipant run` and by papermill"
    def ours(): return use(read_parameters(find_notebook('04_curation'), [(name, text)])[name])
    return outcome(ours), outcome(use, _resolve_type(text))

@pytest.mark.parametrize('text', [
    '3', '010', '08', '1e0', '1_0', '2.0', '0', '-1', '1.5', 'True', 'None', 'x', '', 'nan', 'inf', '1e30'])
def test_both_ways_give_the_same_seed(text):
    ours, papermills = both_ways('seed', text, lambda seed: profile('mini', seed).seed)
    assert ours == papermills

@pytest.mark.parametrize('text', [
    '', 'at.epochs=010', 'at.epochs=1e1', 'evaluation.prompt=no', '5', 'True', 'None', '1.5', 'at.epochs=[',
    'towers.lr=2e-3'])
def test_both_ways_give_the_same_settings(text):
    ours, papermills = both_ways('override', text, lambda override: profile('mini', 0, override).digest())
    assert ours == papermills

@pytest.mark.parametrize('text', ['mini', 'smoke', 'big', '5', 'True'])
def test_both_ways_give_the_same_profile(text):
    ours, papermills = both_ways('profile', text, lambda name: profile(name).digest())
    assert ours == papermills

def test_the_number_of_seeds_is_a_whole_number():
    assert whole_number(2.0, 'seeds') == whole_number('2', 'seeds') == 2
    assert 'seeds=0 is not valid: expected a whole number of at least 1' in refusal(whole_number, 0, 'seeds')

# ---- the command: one line, whatever happens

def vipant(monkeypatch, capsys, *args) -> tuple:
    "Exit code, and what stands on stderr"
    monkeypatch.setattr(sys, 'argv', ['vipant', *args])
    try: cli.main()
    except SystemExit as e: return e.code, capsys.readouterr().err
    return 0, capsys.readouterr().err

def failing(error):
    def check(profile:str=''):
        "fails"
        raise error
    return check

class JobFailed(RuntimeError): pass

FAULT = 'this is a fault of vipant; VIPANT_DEBUG=1 shows where'

@pytest.mark.parametrize('error, said', [
    (ValueError('a.csv, row 2:\n no id'), 'a.csv, row 2: no id'), (FileNotFoundError('no a.wav'), 'no a.wav'),
    (ConnectionError('no net'), 'no net'), (JobFailed('at-vc-s0: stopped'), 'at-vc-s0: stopped'),
    (FileNotFoundError(errno.ENOENT, 'No such file or directory', 'a.wav'), 'a.wav: no such file or directory'),
    (OSError(errno.ENOSPC, 'No space left on device', 'runs/x.npy'), 'runs/x.npy: no space left on device'),
    (OSError(errno.EROFS, 'Read-only file system', b'runs/x'), 'runs/x: read-only file system'),
    (PermissionError(errno.EACCES, 'Permission denied', 'runs/x'), 'runs/x: permission denied'),
    (OSError(errno.ENOSPC, 'No space left on device'), 'no space left on device, while writing (VIPANT_RUNS and'),
    (MemoryError(), 'out of memory'),
    (ModuleNotFoundError("No module named 'torch'", name='torch'), 'torch is not installed'),
    (KeyError('x'), f"KeyError: 'x'; {FAULT}"), (TypeError('no\nway'), f'TypeError: no way; {FAULT}'),
    (ZeroDivisionError(), FAULT), (RuntimeError('shapes'), f'RuntimeError: shapes; {FAULT}'),
    (ModuleNotFoundError("No module named 'vipant.x'", name='vipant.x'), FAULT)], ids=lambda v: str(v)[:30])
def test_every_failure_is_one_line(monkeypatch, capsys, error, said):
    monkeypatch.setitem(cli.COMMANDS, 'check', failing(error))
    code, err = vipant(monkeypatch, capsys, 'check')
    assert code == 1 and err.startswith('vipant check: ') and said in err and len(err.splitlines()) == 1, err
    assert (FAULT in err) == (FAULT in said)

def test_a_traceback_only_on_demand(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, 'check', failing(KeyError('x')))
    monkeypatch.setenv('VIPANT_DEBUG', '1')
    with pytest.raises(KeyError): vipant(monkeypatch, capsys, 'check')

@pytest.mark.parametrize('args, said', [
    (['run', '04_curation', '-p', 'seed', '['], "04_curation: seed='[' is not valid"),
    (['run', '04_curation', '-p', 'override', 'at.epochs=['], "at.epochs='[' is not valid"),
    (['run', '04_curation', '-p', 'seed', '-1'], 'seed=-1 is not valid'),
    (['run', '04_curation', '-p', 'source'], '--p: expected 2 arguments'),
    (['reproduce', '--seeds', '0'], 'seeds=0 is not valid'), (['status', '--seeds', '0'], 'seeds=0 is not valid'),
    (['reproduce', '--workers', '-1'], 'workers=-1 is not valid'),
    (['reproduce', '--seeds', '1e6'], 'invalid int value'),
    (['reproduce', '--override', 'at.epochs=0'], 'at.epochs=0 is not valid: expected a whole number of at least 1')])
def test_bad_arguments_are_one_line(monkeypatch, capsys, args, said):
    code, err = vipant(monkeypatch, capsys, *args)
    assert code == 1 and said in err and len(err.splitlines()) == 1, err

def command(code:str, **kw):
    "Run `code` in a process of its own"
    env = {k: v for k, v in os.environ.items() if k not in ('VIPANT_OVERRIDE', 'VIPANT_DEBUG')} | kw.pop('env', {})
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, text=True,
                          stderr=subprocess.PIPE, **{'stdout': subprocess.PIPE} | kw)

PRESSED = '''
import sys
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}: raise KeyboardInterrupt
sys.meta_path.insert(0, Press())
sys.argv = ['vipant', 'status', '--profile', 'smoke']
from vipant.engine.cli import main
main()
'''

@pytest.mark.parametrize('module', ['pydantic', 'vipant.engine.config', 'vipant.engine.artifacts'])
def test_interrupted_while_it_imports(module):
    r = command(PRESSED.format(module=module))
    assert r.returncode == 130 and 'interrupted; what is finished is kept' in r.stderr
    assert len(r.stderr.splitlines()) == 1, r.stderr

HELP = "import sys; sys.argv = ['vipant', '--help']; from vipant.engine.cli import main; main()"

@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_that_goes_is_no_error(unbuffered):
    read, write = os.pipe()
    os.close(read)
    r = command(HELP, stdout=write, env={'PYTHONUNBUFFERED': unbuffered})
    os.close(write)
    assert r.stderr == '' and r.returncode in (0, 141)      # 141: 128 + SIGPIPE, where nothing holds the text back

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full')
@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_full_disk_is_one_line(unbuffered):
    with open('/dev/full', 'w', encoding='utf-8') as full:
        r = command(HELP, stdout=full, env={'PYTHONUNBUFFERED': unbuffered})
    assert r.returncode == 1 and len(r.stderr.splitlines()) == 1, r.stderr
    assert r.stderr == 'vipant --help: standard output: no space left on device\n'
