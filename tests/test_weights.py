"Weights and trainings' files that are damaged, hostile or of another make: one line, nothing built upon, nothing lost"
import io
import json
import shutil
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from helpers import CFG, SCALE, SIZES, our_file, their_tensors, tiny, written
from vipant import encoder
from vipant.encoder import checked_state
from vipant.engine.checkpoints import read_state, selected_epoch
from vipant.models import released
from vipant.training import LARS, ContrastiveLoss, fit, lars_groups


def refused(path, said, kind=ValueError):
    "Converting is refused in one line that names the file, and nothing is left"
    before = sorted(f.name for f in path.parent.iterdir())
    with pytest.raises(kind) as e: released.convert(path, path.with_suffix('.safetensors'))
    text = str(e.value)
    assert said in text and str(path) in text and '\n' not in text and len(text) < 600
    assert sorted(f.name for f in path.parent.iterdir()) == before

# values, names and shapes

WRONG = (torch.float32, torch.nan), (torch.float16, torch.inf), (torch.float64, 1e300)

@pytest.mark.parametrize('dtype, value', WRONG)
def test_released_weights_that_are_not_finite_are_named(tmp_path, dtype, value):
    audio = OrderedDict((k, v.to(dtype)) for k, v in their_tensors().items())
    released.load(written(tmp_path/'x.pth', audio))
    audio['post_encoder.proj'][3, 1] = value
    said = 'post_encoder.proj has 1 of 512 values that are not finite, the first at (3, 1)'
    refused(written(tmp_path/'x.pth', audio), said)
    refused(written(tmp_path/'x.pth', loss=dict(logit_scale=torch.tensor(torch.nan))), 'logit_scale is nan')

@pytest.mark.parametrize('said, changes', (
    ('proj has 512 of 512 values that are not finite, the first at (0, 0)', dict(proj=torch.full((64, 8), torch.nan))),
    ('proj has 512 of 512 values', dict(proj=torch.full((64, 8), torch.inf))),
    ('2 tensors are missing, the first is class_embedding, then proj', dict(proj=None, class_embedding=None)),
    ('1 tensors are unknown, the first is head', dict(head=torch.ones(2))),
    ('proj has shape (64, 9): expected (64, 8)', dict(proj=torch.ones(64, 9))),
    ('proj is a torch.int64: expected a tensor of floats', dict(proj=torch.ones(64, 8, dtype=torch.int64))),
    ('are torch.float16 and torch.float32: expected one', dict(proj=torch.ones(64, 8).half()))))
def test_our_files_are_finite_and_complete(tmp_path, said, changes):
    with pytest.raises(ValueError) as e: encoder.load(our_file(tmp_path/'x.safetensors', **changes))
    assert said in str(e.value) and 'x.safetensors' in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('said, sizes', (
    ('name 1000000000 layers', SIZES | dict(layers=10**9)), ('are missing', SIZES | dict(layers=2)), ('as json', '{'),
    ('as json', '['*3000), ('whole numbers', SIZES | dict(width='64')), ('whole numbers', SIZES | dict(layers=1e300)),
    ('no multiple', SIZES | dict(heads=5)), ('depth is no size', SIZES | dict(depth=1)),
    ('at least one patch', SIZES | dict(n_mels=8)), ('two numbers', SIZES | dict(mlp_ratio=float('inf'))),
    ('whole numbers', SIZES | dict(stride=16)), ('expected (125000001, 64)', SIZES | dict(n_frames=10**9))))
def test_sizes_of_no_encoder_ask_for_no_memory(tmp_path, said, sizes):
    with pytest.raises(ValueError) as e: encoder.load(our_file(tmp_path/'x.safetensors', sizes))
    assert said in str(e.value) and 'x.safetensors' in str(e.value) and '\n' not in str(e.value)

def test_whole_files_are_read_as_before(tmp_path):
    encoder.save(tiny(), tmp_path/'x.safetensors')
    read = encoder.load(tmp_path/'x.safetensors').state_dict()
    assert all(torch.equal(v, read[k]) for k, v in tiny().state_dict().items())
    half = tiny().half()
    encoder.save(half, tmp_path/'h.safetensors')
    assert encoder.load(tmp_path/'h.safetensors').proj.dtype == torch.float16

@pytest.mark.parametrize('prefix', ('module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.'))
def test_names_of_wrapped_models(tmp_path, prefix):
    wrapped = OrderedDict((prefix + k, v) for k, v in their_tensors().items())
    read = released.load(written(tmp_path/'x.pth', wrapped, {prefix + 'logit_scale': torch.tensor(2.66)}))
    ours = {prefix + k: v.detach().clone() for k, v in tiny().state_dict().items()}
    save_file(ours, tmp_path/'x.safetensors', {'vipant.encoder': json.dumps(SIZES)})
    for found in (read, encoder.load(tmp_path/'x.safetensors')): assert torch.equal(found.proj, tiny().proj)
    released.convert(tmp_path/'x.pth', tmp_path/'y.safetensors')
    assert json.loads((tmp_path/'y.json').read_text(encoding='utf-8'))['logit_scale'] == pytest.approx(2.66)
    one_other = {f'{prefix}a': torch.ones(1), 'b': torch.ones(1)}
    with pytest.raises(ValueError, match='missing'): checked_state(one_other, dict(a=(1,), b=(1,)), 'x')

# claims

def test_the_format_before_1_6_has_its_right_name(tmp_path):
    content = dict(cfg=CFG, model=(their_tensors(), SCALE))
    for protocol in (2, 4):
        torch.save(content, tmp_path/'x.pth', _use_new_zipfile_serialization=False, pickle_protocol=protocol)
        refused(tmp_path/'x.pth', "is in torch's format before 1.6")
    with pytest.raises(ValueError, match=r'torch\.save\(torch\.load') as e: released.load(tmp_path/'x.pth')
    assert 'fetch' not in str(e.value)

@pytest.mark.parametrize('stretched', ({'post_encoder.proj': (64, 10**13)}, {
    'misc.class_embedding': (10**15,), 'pre_encoder.conv1.weight': (64*10**12, 1, 16, 16)}))
def test_copies_of_one_value_that_claim_petabytes(tmp_path, stretched):
    audio = their_tensors() | {k: torch.ones(1).expand(s) for k, s in stretched.items()}
    refused(written(tmp_path/'x.pth', OrderedDict(audio)), 'tensors claim')

def test_tensors_without_values(tmp_path):
    audio = their_tensors() | {'post_encoder.proj': torch.ones(64, 8, device='meta')}
    refused(written(tmp_path/'x.pth', OrderedDict(audio)), '_rebuild_meta_tensor_no_storage, which no released')
    with pytest.raises(ValueError, match='w holds no values'):
        checked_state(dict(w=torch.ones(2, device='meta')), dict(w=(2,)), 'x')
    with pytest.raises(ValueError, match='w claims 8 bytes, 4 are there'):
        checked_state(dict(w=torch.ones(1).expand(2)), dict(w=(2,)), 'x')

class Call:
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call

@pytest.mark.parametrize('made', (Call(bytearray, 3*10**9), Call(torch.Tensor, 10**10), Call(set, [1])))
def test_what_no_checkpoint_needs_is_not_made(tmp_path, made):
    refused(written(tmp_path/'x.pth', cfg=CFG | dict(x=made)), 'which no released checkpoint needs')

def nested(n, of=lambda x: [x]):
    found = []
    for _ in range(n): found = of(found)
    return found

@pytest.mark.parametrize('said, cfg', (
    ('nested more than 100 deep', nested(400)), ('nested more than 100 deep', nested(400, lambda x: {'a': x})),
    ('longer than 200000 characters', nested(60, lambda x: [x]*2)), ('as a name', {(1, 2): 3}),
    ('longer than 200000 characters', ['x'*10**4]*20)))
def test_a_configuration_has_an_end(tmp_path, said, cfg):
    refused(written(tmp_path/'x.pth', cfg=dict(a=cfg)), said)

def with_pickle(path, data) -> Path:
    "The file of a tiny checkpoint with another pickle in it"
    whole = zipfile.ZipFile(written(path))
    parts = {i.filename: whole.read(i) for i in whole.infolist()}
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in parts.items(): z.writestr(name, data if name.endswith('data.pkl') else content)
    return path

def test_tuples_of_tuples_are_not_hashed(tmp_path):
    deep = b'\x80\x02}(' + b')' + b'\x85'*10**5 + b'K\x01u.'        # {((((...),),),): 1}
    refused(with_pickle(tmp_path/'x.pth', deep), 'nests tuples')
    doubled = b'\x80\x02}()' + b''.join(b'q%ch%c\x86' % (k, k) for k in range(60)) + b'K\x01u.'
    refused(with_pickle(tmp_path/'x.pth', doubled), 'nests tuples')
    for cut in (b'', b'\x80\x02}(', b'\x80\x02h\x05.', b'\x80\x02\x85.', b'\xff'):
        refused(with_pickle(tmp_path/'x.pth', cut), 'x.pth')

def test_storage_smaller_than_it_claims(tmp_path):
    data = zipfile.ZipFile(written(tmp_path/'x.pth')).read('x/data.pkl')
    values = b'M\x00@', b'J\x00\x00\x00\x7f'        # 64 x 16 x 16 of them, and 2**31 - 2**24
    assert values[0] in data
    refused(with_pickle(tmp_path/'x.pth', data.replace(*values)), 'tensors claim')

def test_a_zip_that_claims_more_than_it_holds(tmp_path):
    whole = written(tmp_path/'x.pth').read_bytes()
    at = whole.rindex(b'PK\x01\x02')         # the last entry of the directory
    bad = bytearray(whole)
    bad[at + 20:at + 28] = struct.pack('<II', 2**31, 2**31)
    (tmp_path/'x.pth').write_bytes(bad)
    refused(tmp_path/'x.pth', 'claims parts of')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('x/data.pkl', bytes(10**6))
    (tmp_path/'x.pth').write_bytes(buffer.getvalue())
    refused(tmp_path/'x.pth', 'holds compressed parts')

@pytest.mark.parametrize('header', (
    dict(x=dict(dtype='F32', shape=[10**15], data_offsets=[0, 4])),
    dict(x=dict(dtype='F32', shape=[1], data_offsets=[0, 2**60])),
    dict(x=dict(dtype='F32', shape=[2**62, 4], data_offsets=[0, 4]))))
def test_a_safetensors_header_that_claims_too_much(tmp_path, header):
    text = json.dumps(header).encode()
    for length in (len(text), 2**60, 10**8):
        (tmp_path/'x').write_bytes(struct.pack('<Q', length) + text + bytes(4))
        with pytest.raises(ValueError, match='x cannot be read as safetensors'): encoder.load(tmp_path/'x')

def test_a_json_never_stands_alone(tmp_path, monkeypatch):
    def full(*args): raise OSError('no space left')
    monkeypatch.setattr(released, 'save_encoder', full)
    with pytest.raises(OSError): released.convert(written(tmp_path/'x.pth'), tmp_path/'x.safetensors')
    assert [f.name for f in tmp_path.iterdir()] == ['x.pth']

# trainings

class Killed(Exception): pass

def train(out, killed_at=None, epochs=4):
    "A toy of two steps an epoch; killed in the first step of an epoch"
    torch.manual_seed(0)
    model, loss = nn.Linear(6, 4), ContrastiveLoss()
    optim = LARS(lars_groups(nn.ModuleList([model, loss]), 20., .5), lr=0)
    def batches(epoch):
        if epoch == killed_at: raise Killed
        for n in (1, 2):
            x = torch.randn(8, 10, generator=torch.Generator().manual_seed(10*epoch + n))
            yield dict(audio=x[:, :6], image=x[:, 6:])
    return fit(model, loss, batches, optim, out, epochs=epochs, steps_per_epoch=2, factor=lambda step: 1., seed=0,
               on_epoch=lambda e, n: dict(score=e.weight.sum().item()), progress=False,
               save=lambda m, path: save_file(m.state_dict(), path))

@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    out = tmp_path_factory.mktemp('killed')/'run'
    with pytest.raises(Killed): train(out, 4)
    return out

@pytest.fixture
def run(killed, tmp_path):
    "The folder of a training that was killed in its fourth epoch"
    return Path(shutil.copytree(killed, tmp_path/'run'))

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "What a training leaves that was never killed"
    out = tmp_path_factory.mktemp('whole')/'run'
    train(out)
    return out

def flip(path, at=-100):
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)

def same(run, whole):
    names = sorted(f.name for f in run.iterdir())
    assert names == sorted(f.name for f in whole.iterdir()) and len(names) == 7
    for name in names:
        if name.endswith('.safetensors') or name == 'metrics.csv':
            assert (run/name).read_bytes() == (whole/name).read_bytes()

DAMAGE = dict(flipped=flip, cut=lambda f: f.write_bytes(f.read_bytes()[:-7]), empty=lambda f: f.write_bytes(b''),
              zeros=lambda f: f.write_bytes(bytes(f.stat().st_size)), gone=lambda f: f.unlink())

def test_killed_it_comes_to_the_same_weights(run, whole):
    train(run)
    same(run, whole)

@pytest.mark.parametrize('how', DAMAGE)
@pytest.mark.parametrize('what', ('state.pt', 'epoch-03.safetensors', 'state-before.pt'))
def test_killed_and_damaged_it_comes_to_the_same_weights(run, whole, capsys, what, how):
    DAMAGE[how](run/what)
    train(run)
    same(run, whole)
    said = capsys.readouterr().out
    if what == 'state.pt' and how != 'gone': assert 'state.pt is damaged' in said and 'goes on from epoch 2' in said
    if what.startswith('epoch'): assert 'epoch-03.safetensors' in said and 'written again' in said
    if what in ('state-before.pt', 'untouched'): assert not said

def test_an_epoch_lost_between_two_states_is_trained_again(run, whole):
    flip(run/'epoch-02.safetensors')
    train(run)
    same(run, whole)

@pytest.mark.parametrize('what', ('epoch-01.safetensors', 'metrics.csv', 'log.csv'))
@pytest.mark.parametrize('how', ('flipped', 'gone', 'empty'))
def test_what_no_state_can_mend_is_refused(run, what, how):
    flip(run/what, 40) if how == 'flipped' else DAMAGE[how](run/what)
    with pytest.raises(ValueError, match='delete the folder to train anew') as e: train(run)
    assert what in str(e.value) and '\n' not in str(e.value)

def test_both_states_damaged_are_refused(run):
    for name in ('state.pt', 'state-before.pt'): flip(run/name)
    said = 'state.pt is damaged.*state-before.pt is damaged.*delete the folder'
    with pytest.raises(ValueError, match=said): train(run)

@pytest.mark.parametrize('names', (('state.pt',), ('state.pt', 'state-before.pt')))
def test_a_crash_between_two_renames_loses_an_epoch_at_most(run, whole, names):
    (run/'state.pt').replace(run/('state-before.pt' if len(names) == 1 else 'state-new.pt'))
    (run/'.1.part-epoch-04.safetensors').write_bytes(b'half')
    train(run)
    (run/'state-new.pt').unlink(missing_ok=True)
    same(run, whole)

def test_without_any_state_it_begins_anew_and_says_so(run, whole, capsys):
    for name in ('state.pt', 'state-before.pt'): (run/name).unlink()
    train(run)
    same(run, whole)
    assert 'has epochs, but no state: the training begins anew' in capsys.readouterr().out

def test_damaged_twice(run, whole):
    "The damaged state does not take the place of the one that the training went on from"
    flip(run/'state.pt')
    with pytest.raises(Killed): train(run, 4)
    flip(run/'state.pt')
    train(run)
    same(run, whole)

def test_a_state_of_version_0_1_is_gone_on_from(run, whole):
    state = read_state(run/'state.pt')
    torch.save({k: v for k, v in state.items() if k != 'files'}, run/'state.pt')
    (run/'state-before.pt').unlink()
    train(run)
    same(run, whole)

def test_a_finished_training_is_looked_at(whole, tmp_path):
    summary = json.loads((whole/'summary.json').read_text(encoding='utf-8'))
    assert {f'epoch-0{n}.safetensors' for n in (1, 2, 3, 4)} == summary['files'].keys()
    for f in whole.iterdir(): (tmp_path/f.name).write_bytes(f.read_bytes())
    assert train(tmp_path)['steps'] == 8
    for name, how in (('epoch-04', 'is damaged'), ('epoch-02', 'is damaged'), ('epoch-01', 'is gone')):
        DAMAGE['flipped' if how == 'is damaged' else 'gone'](tmp_path/f'{name}.safetensors')
        with pytest.raises(ValueError, match=f'{name}.safetensors {how}.*delete the folder'): train(tmp_path)
        (tmp_path/f'{name}.safetensors').write_bytes((whole/f'{name}.safetensors').read_bytes())
    said = 'summary.json cannot be read: expected json with seed'
    for text in ('', '[]', '{}', '{"seed": 0}', '{"seed": "0", "epochs": 4, "steps_per_epoch": 2}', '['*5000):
        (tmp_path/'summary.json').write_text(text, encoding='utf-8')
        with pytest.raises(ValueError, match=said) as e: train(tmp_path)
        assert '\n' not in str(e.value)

@pytest.mark.parametrize('text', ('', '{}', '[3]', '{"epoch": "3"}', '{"epoch": null}', 'epoch'))
def test_a_selected_json_of_another_shape(tmp_path, text):
    (tmp_path/'selected.json').write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match=r'selected.json cannot be read: expected json with epoch \(int\)'):
        selected_epoch(tmp_path)
    with pytest.raises(FileNotFoundError, match='selected.json: there is no such file'): selected_epoch(tmp_path/'none')
