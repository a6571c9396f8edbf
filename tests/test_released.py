"""The released checkpoints: numbers of the released code, files that are damaged or hostile, servers that fail"""
import http.server
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import time
import types
import zipfile
from base64 import b64encode
from collections import OrderedDict, defaultdict
from hashlib import md5, sha256
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vipant import encoder, released
from vipant.data.released_files import address, download, pairs_from_cap, read_cap, read_map, read_pairs
from vipant.models.released import config, convert, fbank_settings, fetch, load

HERE = Path(__file__).parent/'golden'
GOLDEN = HERE/'tiny_va_in3.pth'        # written by the released code and its pinned omegaconf
NAME = '00071478'

def one_line(error): return '\n' not in str(error.value)

# numbers of the released code

EMBEDDINGS = np.load(HERE/'tiny_va_in3_emb.npy', allow_pickle=False)       # normalised, of noise

@pytest.fixture(scope='module')
def noise(): return torch.from_numpy(np.random.RandomState(3).randn(2, 1, 1000, 128).astype(np.float32))

def assert_golden(read, noise):
    with torch.no_grad(): found = F.normalize(read(noise), dim=-1).numpy()
    np.testing.assert_allclose(found, EMBEDDINGS, rtol=0, atol=1e-6)

def test_embeddings_are_those_of_the_released_code(noise, tmp_path):
    assert_golden(load(GOLDEN), noise)
    assert_golden(encoder.load(convert(GOLDEN, tmp_path/'tiny.safetensors')), noise)

def test_the_old_address_leads_to_the_same_functions():
    assert released.load is load and released.config is config

def test_encoder_is_trainable_keeps_three_channels_and_owns_its_tensors():
    read = load(GOLDEN)
    assert read.sizes['channels'] == 3 and read.grid == (61, 5) and read.resized(1800).grid == (111, 5)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in read.parameters())
    with torch.no_grad(): read.proj.zero_()
    assert load(GOLDEN).proj.abs().sum() > 0

def test_configuration_is_plain_and_its_fbank_settings_are_the_papers():
    cfg = config(GOLDEN)
    assert json.loads(json.dumps(cfg)) == cfg and 'omegaconf' not in sys.modules
    assert cfg['model']['audio']['resolution'] == ['${running.max_audio_len}', '${running.num_mel_bins}']
    assert fbank_settings(cfg) == dict(n_frames=1000, n_mels=128, frame_shift=10, mean=-4.93839311, std=5.75751113)

def test_record_beside_the_converted_file_names_its_source(tmp_path):
    convert(GOLDEN, tmp_path/'tiny.safetensors')
    record = json.loads((tmp_path/'tiny.json').read_text(encoding='utf-8'))
    assert record['sha256'] == sha256(GOLDEN.read_bytes()).hexdigest() and record['source'] == GOLDEN.name
    assert record['config'] == config(GOLDEN) and record['logit_scale'] == pytest.approx(np.log(1/.07), abs=1e-4)

# files of other structure

CFG = dict(running=dict(audio=dict(max_len=200)),
           model=dict(audio=dict(resolution=['${running.audio.max_len}', 128], pre_encoder=dict(stride=[16, 24]))))

def node(value, modules, parent=None):
    "`value` as omegaconf keeps it, of classes that stand under its names"
    kind = {dict: 'dictconfig.DictConfig', list: 'listconfig.ListConfig'}.get(type(value), 'nodes.AnyNode').split('.')
    n = getattr(modules[f'omegaconf.{kind[0]}'], kind[1])()
    n._parent, n._metadata = parent, modules['omegaconf.base'].ContainerMetadata()
    n._metadata.__dict__.update(optional=True, resolver_cache=defaultdict(dict, {'oc.env': {}}))
    if type(value) is dict: n._content = {k: node(v, modules, n) for k, v in value.items()}
    elif type(value) is list: n._content = [node(v, modules, n) for v in value]
    else: n._val = value
    return n

def write(path, cfg, model):
    "A checkpoint at `path` as the released code wrote it; `path`"
    modules = {'omegaconf': types.ModuleType('omegaconf')}
    for name in ('base.ContainerMetadata', 'dictconfig.DictConfig', 'listconfig.ListConfig', 'nodes.AnyNode'):
        module, cls = f'omegaconf.{name}'.rsplit('.', 1)
        setattr(modules.setdefault(module, types.ModuleType(module)), cls, type(cls, (), {'__module__': module}))
    with mock.patch.dict(sys.modules, modules):
        torch.save({'cfg': node(cfg, modules), 'model': model}, path, pickle_protocol=2)
    return path

def tower(layers=2, channels=3, width=64, rows=1 + 11*5):
    "Tensors of an audio head, in the names and order of the released code"
    w = width
    block = {'attn.in_proj_weight': (3*w, w), 'attn.in_proj_bias': (3*w,),
             'attn.out_proj.weight': (w, w), 'attn.out_proj.bias': (w,), 'ln_1.weight': (w,), 'ln_1.bias': (w,),
             'mlp.c_fc.weight': (4*w, w), 'mlp.c_fc.bias': (4*w,),
             'mlp.c_proj.weight': (w, 4*w), 'mlp.c_proj.bias': (w,), 'ln_2.weight': (w,), 'ln_2.bias': (w,)}
    shapes = {f'encoder.resblocks.{b}.{k}': s for b in range(layers) for k, s in block.items()}
    shapes |= {'pre_encoder.conv1.weight': (w, channels, 32, 32), 'pre_encoder.ln.weight': (w,),
               'pre_encoder.ln.bias': (w,), 'post_encoder.proj': (w, 16), 'post_encoder.ln.weight': (w,),
               'post_encoder.ln.bias': (w,), 'misc.positional_embedding': (rows, w), 'misc.class_embedding': (w,)}
    g = torch.Generator().manual_seed(0)
    return OrderedDict((k, torch.randn(s, generator=g)*.1) for k, s in shapes.items())

SCALE = OrderedDict(logit_scale=torch.tensor(2.6593))

def test_twelve_layers_are_the_152_tensors_of_the_released_files(tmp_path):
    audio = tower(12)
    assert len(audio) == 152
    image = tower(1, rows=50)       # of a run that kept its frozen image tower
    read = load(write(tmp_path/'x.pth', CFG, (image, audio, OrderedDict(), SCALE)))
    state = read.state_dict()
    assert len(state) == 152 and torch.equal(state['conv1.weight'], audio['pre_encoder.conv1.weight'])
    assert torch.equal(state['transformer.resblocks.11.mlp.c_proj.bias'], audio['encoder.resblocks.11.mlp.c_proj.bias'])

@pytest.mark.parametrize('channels', (1, 3))
@pytest.mark.parametrize('parts', (2, 4))
def test_two_or_four_state_dicts_of_one_or_three_channels(tmp_path, channels, parts):
    audio = tower(channels=channels)
    model = (audio, SCALE) if parts == 2 else (OrderedDict(), audio, OrderedDict(), SCALE)
    read = load(write(tmp_path/'x.pth', CFG, model))
    assert read.sizes['channels'] == channels and torch.equal(read.proj, audio['post_encoder.proj'])

@pytest.mark.parametrize('name, value', (('logit_scale', 2.6593), ('loss_head_al.logit_scale', 4.5)))
def test_scale_is_found_under_both_names(tmp_path, name, value):
    loss = OrderedDict({'loss_head_va.logit_scale': torch.tensor(1.), name: torch.tensor(value)})
    path = write(tmp_path/'x.pth', CFG, (tower(), loss))
    convert(path, tmp_path/'x.safetensors')
    assert json.loads((tmp_path/'x.json').read_text(encoding='utf-8'))['logit_scale'] == pytest.approx(value)

def test_other_shapes_missing_and_unknown_tensors_are_named_in_one_line(tmp_path):
    longer = 'misc.positional_embedding has shape (57, 64): expected (56, 64), one and a grid of 11 x 5'
    lacking = {k: v for k, v in tower().items() if k != 'encoder.resblocks.0.ln_2.bias'}
    wrong = {longer: tower(rows=57), 'first is transformer.resblocks.0.ln_2.bias': lacking,
             'first is text.weight': tower() | {'text.weight': torch.zeros(2)},
             'proj is a torch.int64': tower() | {'post_encoder.proj': torch.zeros(64, 16, dtype=torch.int64)},
             'channels=2': tower(channels=2), '80 wide': tower(width=80)}
    for message, audio in wrong.items():
        path = write(tmp_path/'x.pth', CFG, (OrderedDict(audio), SCALE))
        with pytest.raises(ValueError, match=r'.') as e: load(path)
        assert message in str(e.value) and str(tmp_path/'x.pth') in str(e.value) and one_line(e)

# hostile and damaged files

class Call:
    "Calls `function` when it is unpickled"
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call

@pytest.mark.parametrize('where', ('cfg', 'model', 'loss'))
@pytest.mark.parametrize('function', (os.system, eval, exec, __import__, getattr, subprocess.check_call))
def test_hostile_pickle_is_refused_and_not_run(tmp_path, where, function):
    mark = tmp_path/'ran'
    args = {os.system: (f'touch {mark}',), subprocess.check_call: (['touch', str(mark)],),
            __import__: ('antigravity',), getattr: ('', 'join')}
    bad = Call(function, *args.get(function, (f'open({str(mark)!r}, "w")',)))
    parts = dict(cfg={'cfg': bad}, model={'model': bad}, loss={'model': (tower(), {'logit_scale': bad})})
    torch.save(dict(cfg={'a': 1}, model=(tower(), SCALE)) | parts[where], tmp_path/'x.pth')
    refused = rf'x\.pth names \S*{function.__name__}, which no released checkpoint needs'
    with pytest.raises(ValueError, match=refused) as e: convert(tmp_path/'x.pth', tmp_path/'x.safetensors')
    assert one_line(e) and sorted(f.name for f in tmp_path.iterdir()) == ['x.pth']

def test_a_plain_pickle_a_text_and_nothing_are_refused(tmp_path):
    (tmp_path/'x.pth').write_bytes(pickle.dumps(Call(os.system, f'touch {tmp_path/"ran"}')))
    with pytest.raises(ValueError, match='no whole zip file'): load(tmp_path/'x.pth')
    (tmp_path/'x.pth').write_text('', encoding='utf-8')
    with pytest.raises(ValueError, match='no whole zip file'): load(tmp_path/'x.pth')
    with pytest.raises(FileNotFoundError, match='no such checkpoint'): load(tmp_path/'y.pth')
    with zipfile.ZipFile(tmp_path/'z.pth', 'w') as z: z.writestr('readme', 'no pickle')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint') as e: load(tmp_path/'z.pth')
    assert one_line(e) and not (tmp_path/'ran').exists()

def test_no_damage_goes_unseen_or_fails_otherwise(tmp_path):
    whole, rng = write(tmp_path/'x.pth', CFG, (tower(), SCALE)).read_bytes(), np.random.default_rng(0)
    good, unseen = load(tmp_path/'x.pth').state_dict(), 0
    for k in range(60):
        at = int(rng.integers(len(whole)))
        bad = bytearray(whole)
        if k % 3: bad[at] ^= 1 << int(rng.integers(8))
        else: del bad[at:]
        (tmp_path/'bad.pth').write_bytes(bad)
        try: state = load(tmp_path/'bad.pth').state_dict()
        except ValueError as e: assert '\n' not in str(e) and 'bad.pth' in str(e)
        else:           # a bit of the padding between the parts
            unseen += 1
            assert all(torch.equal(state[n], v) for n, v in good.items())
    assert unseen < 5

def test_unpickled_loops_end(tmp_path):
    loop = {}
    loop['self'] = loop
    torch.save({'cfg': loop, 'model': ()}, tmp_path/'x.pth')
    with pytest.raises(ValueError, match='contains itself'): config(tmp_path/'x.pth')

# servers

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        s = self.server
        s.asked.append((self.path, self.headers.get('Range'), self.headers.get('If-Range')))
        if s.status: return self.send_error(s.status)
        wanted = s.ranges and self.headers.get('Range') and self.headers.get('If-Range') in (s.etag, s.modified)
        start = int(self.headers['Range'][6:-1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted: self.send_header('Content-Range', f'bytes {start}-{len(s.body) - 1}/{len(s.body)}')
        length = len(s.body) - start if s.length is None else s.length
        if length != '': self.send_header('Content-Length', str(length))
        for k, v in {'ETag': s.etag, 'Last-Modified': s.modified, 'x-goog-hash': s.md5}.items():
            if v: self.send_header(k, v)
        self.end_headers()
        end = s.until or len(s.body)
        for i in range(start, end, 2**16):
            if i >= s.held: s.go.wait()
            self.wfile.write(s.body[i:min(i + 2**16, end)])

    def log_message(self, *args): pass

@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.__dict__.update(body=GOLDEN.read_bytes(), etag='"one"', modified='', md5='', ranges=True,
                      length=None, status=None,         # what it says in place of the truth
                      until=None,       # the byte at which it hangs up
                      held=float('inf'), go=threading.Event(),      # the byte at which it waits for the event
                      asked=[])
    s.handle_error = lambda *args: None         # a killed client hangs up
    threading.Thread(target=s.serve_forever, daemon=True).start()
    monkeypatch.setenv('VIPANT_RELEASED_URL', f'http://127.0.0.1:{s.server_port}')
    yield s
    s.go.set()
    s.shutdown()
    s.server_close()

def left(folder): return sorted(f.name for f in folder.iterdir() if f.suffix != '.lock')

def test_fetch_gives_an_encoder_and_asks_once(server, tmp_path, noise):
    server.md5 = 'crc32c=AAAAAA==,md5=' + b64encode(md5(server.body).digest()).decode()
    out = fetch(NAME, tmp_path)
    assert_golden(encoder.load(out), noise)
    assert fetch(NAME, tmp_path) == out and len(server.asked) == 1
    assert server.asked[0][0] == '/model/01FFQTZK9YBPRDQHHR6157AGBR/00071478.pth'
    assert left(tmp_path) == [NAME + s for s in ('.json', '.pth', '.pth.json', '.safetensors')]
    record = json.loads((tmp_path/f'{NAME}.pth.json').read_text(encoding='utf-8'))
    known = dict(sha256=sha256(server.body).hexdigest(), bytes=len(server.body), url=address(NAME))
    assert {k: record[k] for k in known} == known

def test_fetch_converts_again_where_it_was_killed_before_the_record(server, tmp_path):
    record = fetch(NAME, tmp_path).with_suffix('.json')
    written = record.read_bytes()
    record.unlink()
    fetch(NAME, tmp_path)
    assert record.read_bytes() == written and len(server.asked) == 1

def broken(server, folder, until):
    server.until = until
    said = f'after {until} of {len(server.body)} bytes; they are kept in .*{NAME}.pth.part'
    with pytest.raises(ConnectionError, match=said) as e: download(NAME, folder)
    assert one_line(e) and (folder/f'{NAME}.pth.part').stat().st_size == until
    assert not (folder/f'{NAME}.pth').exists()
    server.until = None

def test_download_goes_on_after_each_break(server, tmp_path):
    for until in (100_000, 1_500_000, 3_000_001): broken(server, tmp_path, until)
    assert download(NAME, tmp_path).read_bytes() == server.body
    assert [r for _, r, _ in server.asked] == [None, 'bytes=100000-', 'bytes=1500000-', 'bytes=3000001-']
    assert {i for _, _, i in server.asked[1:]} == {'"one"'}

def test_a_weak_tag_resumes_by_date(server, tmp_path):
    server.etag, server.modified = 'W/"one"', 'Mon, 01 Nov 2021 00:00:00 GMT'
    broken(server, tmp_path, 70_000)
    assert download(NAME, tmp_path).read_bytes() == server.body
    assert server.asked[1][1:] == ('bytes=70000-', server.modified)

@pytest.mark.parametrize('change', (dict(ranges=False), dict(etag='')))
def test_all_is_taken_anew_where_the_rest_cannot_be_told(server, tmp_path, change):
    server.__dict__.update(change)
    broken(server, tmp_path, 70_000)
    assert download(NAME, tmp_path).read_bytes() == server.body

@pytest.mark.parametrize('change', (
    dict(etag='"two"'), dict(etag='"two"', ranges=False), dict(etag='"two"', body=GOLDEN.read_bytes() + b'more')))
def test_a_file_that_changed_on_the_server_is_refused_and_nothing_lost(server, tmp_path, change):
    broken(server, tmp_path, 70_000)
    server.__dict__.update(change)
    said = 'has changed on the server since the download began .* delete .*part to fetch the new one'
    with pytest.raises(ValueError, match=said) as e: download(NAME, tmp_path)
    assert one_line(e) and (tmp_path/f'{NAME}.pth.part').read_bytes() == GOLDEN.read_bytes()[:70_000]

def test_a_kill_loses_nothing(server, tmp_path):
    server.held = 2_000_000         # the server waits there, so it is not over before the kill
    code = f'from vipant.data.released_files import download; download({NAME!r}, {str(tmp_path)!r})'
    p, part = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.DEVNULL), tmp_path/f'{NAME}.pth.part'
    until = time.time() + 600
    while not (part.is_file() and part.stat().st_size) and p.poll() is None and time.time() < until: time.sleep(.05)
    p.kill()
    p.wait()
    server.go.set()
    have = part.stat().st_size
    assert 0 < have <= server.held and not (tmp_path/f'{NAME}.pth').exists()
    assert download(NAME, tmp_path).read_bytes() == server.body and server.asked[-1][1] == f'bytes={have}-'

def test_two_at_once_download_once(server, tmp_path):
    server.held, got = 1_000_000, []
    threads = [threading.Thread(target=lambda: got.append(download(NAME, tmp_path).read_bytes())) for _ in range(3)]
    for t in threads: t.start()
    while not server.asked and any(t.is_alive() for t in threads): time.sleep(.01)
    server.go.set()
    for t in threads: t.join()
    assert got == [server.body]*3 and len(server.asked) == 1

def test_wrong_lengths(server, tmp_path):
    server.length = len(server.body) - 1000         # the end is cut off, and the server does not know
    with pytest.raises(ValueError, match='no such file, it begins with .*; deleted'): download(NAME, tmp_path)
    assert left(tmp_path) == []
    server.length = len(server.body) + 1000
    said = f'after {len(server.body)} of {len(server.body) + 1000} bytes'
    with pytest.raises(ConnectionError, match=said): download(NAME, tmp_path)
    server.length = ''
    with pytest.raises(ValueError, match='does not say how long'): download('00083391', tmp_path)

def test_a_wrong_md5_is_refused(server, tmp_path):
    server.md5 = 'md5=' + b64encode(md5(b'another').digest()).decode()
    with pytest.raises(ValueError, match='not what the server keeps') as e: download(NAME, tmp_path)
    assert one_line(e) and left(tmp_path) == []

@pytest.mark.parametrize('status, kind', ((404, FileNotFoundError), (403, ConnectionError), (500, ConnectionError)))
def test_a_server_that_refuses(server, tmp_path, status, kind):
    server.status = status
    said = f'{NAME}.pth: the server answers {status} .*set VIPANT_RELEASED_URL'
    with pytest.raises(kind, match=said) as e: fetch(NAME, tmp_path)
    assert one_line(e) and left(tmp_path) == []

def test_offline_is_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setenv('VIPANT_RELEASED_URL', 'http://127.0.0.1:1')
    said = r'http://127.0.0.1:1/model/\S+ cannot be reached .*Connection refused.*check the network'
    with pytest.raises(ConnectionError, match=said) as e: fetch(NAME, tmp_path)
    assert one_line(e) and left(tmp_path) == []

def test_served_hostile_and_other_checkpoints_become_no_encoder(server, tmp_path):
    file = io.BytesIO()
    torch.save({'cfg': Call(os.system, f'touch {tmp_path/"ran"}'), 'model': ()}, file)
    server.body = file.getvalue()
    with pytest.raises(ValueError, match='system, which no released checkpoint needs'): fetch(NAME, tmp_path/'a')
    server.body = write(tmp_path/'x.pth', CFG, (tower(rows=57), SCALE)).read_bytes()
    with pytest.raises(ValueError, match='has shape .57, 64.'): fetch(NAME, tmp_path/'b')
    assert not (tmp_path/'ran').exists()
    assert left(tmp_path/'a') == left(tmp_path/'b') == [f'{NAME}.pth', f'{NAME}.pth.json']

def test_a_file_that_changed_on_disk_is_refused(server, tmp_path):
    path = download(NAME, tmp_path)
    path.write_bytes(path.read_bytes() + b'x')
    with pytest.raises(ValueError, match='is not what was downloaded'): download(NAME, tmp_path)

def test_a_new_file_under_an_old_name_is_taken_only_when_accepted(server, tmp_path):
    download(NAME, tmp_path).unlink()
    server.body, server.etag = write(tmp_path/'x.pth', CFG, (tower(), SCALE)).read_bytes(), '"two"'
    said = 'is not the file that was fetched before .* delete .*json to accept it'
    with pytest.raises(ValueError, match=said) as e: download(NAME, tmp_path)
    assert one_line(e) and not (tmp_path/f'{NAME}.pth').exists()
    (tmp_path/f'{NAME}.pth.json').unlink()
    assert download(NAME, tmp_path).read_bytes() == server.body
    assert len(server.asked) == 2       # what had arrived was kept

def test_curated_captions_are_downloaded_and_read(server, tmp_path):
    server.body = b'["a.p0.4_01", [3, 1]]\n["a.p0.4_02", [1, 2]]\n["b.p0.1_01", [0]]\n'
    assert pairs_from_cap(read_cap(download('vc-b32-cap', tmp_path))) == {'a': [3, 1, 2], 'b': [0]}
    server.body = b'<html>'
    with pytest.raises(ValueError, match='no such file, it begins with'): download('vc-b32-map', tmp_path)

# captions

@pytest.mark.parametrize('read, text, line', (
    (read_cap, '["a.p0.4_01", [1]]\n\n', 2), (read_cap, '["a", [1]]\n', 1), (read_cap, '["a.p0.4_01", [true]]', 1),
    (read_map, '[0, "a"]\n[1, 2]\n', 2), (read_map, '[0, "a"]\n[1, "b"]\n[0, "c"]\n', 3),
    (read_pairs, '{"a": [1],\n"b": }', 2)))
def test_a_malformed_line_is_named(tmp_path, read, text, line):
    (tmp_path/'x').write_text(text, encoding='utf-8')
    with pytest.raises(ValueError, match=rf'x, line {line}: .*expected') as e: list(read(tmp_path/'x'))
    assert one_line(e)
