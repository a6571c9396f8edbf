"A trained model on one's own sounds: the same numbers however it is asked, long recordings, commands, hubs"
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch

from vipant.data.layouts import clips, label_map
from vipant.engine.config import profile
from vipant.engine.recipes import raw_data
from vipant.evaluation import zero_shot
from vipant.listen import Listener
from vipant.models.released import convert
from vipant.use.embeddings import load_embeddings
from vipant.use.model_sources import WEIGHTS, find_parts, packed, scored_parts

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

def vipant(*args, **env):
    return subprocess.run([str(BIN/'vipant'), *map(str, args)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {'VIPANT_PROFILE': 'smoke'} | env, stdin=subprocess.DEVNULL, timeout=600)

@pytest.fixture(scope='module')
def smoke(): return profile('smoke')

@pytest.fixture(scope='module')
def weights(smoke, tmp_path_factory):
    "The smoke model as a folder that others load"
    folder = tmp_path_factory.mktemp('weights')/'smoke'
    Listener.of(scored_parts(smoke, '+AT w/ GC')).save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def listener(weights): return Listener.from_pretrained(weights)

@pytest.fixture(scope='module')
def paths(smoke): return clips(raw_data(smoke).make(), 'esc50')['audio'][:6]

# the same numbers

def test_an_embedding_depends_on_nothing_but_the_sound(listener, paths):
    alone = torch.cat([listener.sounds(p) for p in paths])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for given in (paths, paths[::-1], paths[2:]):
                found = listener.sounds(given)
                for p, y in zip(given, found): assert (y - alone[paths.index(p)]).abs().max() < 1e-6
    finally: torch.set_num_threads(before)
    samples, rate = zip(*(sf.read(p, dtype='float32') for p in paths))
    assert (listener.sounds(list(samples), rate[0]) - alone).abs().max() < 1e-6

def test_a_folder_gives_what_the_training_gives(smoke, listener, paths):
    own = Listener(smoke, '+AT w/ GC')
    assert torch.equal(own.sounds(paths), listener.sounds(paths))
    sentences = ['a dog barks', 'the sound of a cat', 'church bells ring']
    assert torch.equal(own.texts(sentences), listener.texts(sentences))

def test_numbers_of_the_tables_come_out_of_the_folder(smoke, listener):
    "Zero-shot accuracy on ESC-50, from files, is that of the scores"
    rows, names = clips(raw_data(smoke).make(), 'esc50'), label_map(raw_data(smoke).make(), 'esc50')
    target = [list(names).index(own[0]) for own in rows['labels']]
    texts = listener.name_texts(names.values())
    found = zero_shot(listener.sounds(rows['audio']), texts, target, smoke.evaluation.cosine)
    [row] = [n for n in listener.parts.spec.about['numbers'] if n['dataset'] == 'ESC50' and n['group'] == 'prompt']
    assert row['n'] == len(rows) and found == pytest.approx(row['value'], abs=1e-9)

def test_the_folder_is_small_and_says_what_it_is(weights):
    assert sum(f.stat().st_size for f in weights.iterdir()) < 2_000_000
    card = (weights/'README.md').read_text(encoding='utf-8')
    for said in ('license: apache-2.0', 'library_name: vipant', 'miniature world', '95 % interval', '## Limits'):
        assert said in card

@pytest.mark.skipif('mini' not in packed(), reason='vipant pack puts the weights of a finished mini run there')
def test_mini_weights_come_with_the_package():
    assert sum(f.stat().st_size for f in (WEIGHTS/'mini').iterdir()) < 4_000_000
    listener = Listener.from_pretrained('mini')
    assert listener.texts('a dog barks').shape[1] == 128 and listener.parts.spec.about['numbers']

# other models

def test_a_checkpoint_of_the_authors_by_its_file(tmp_path):
    "The released code's own tiny checkpoint, through the whole way from a file to an embedding"
    out = convert(Path(__file__).parent/'golden'/'tiny_va_in3.pth', tmp_path/'tiny.safetensors')
    parts = find_parts(out)
    assert parts.spec.front.model_dump() == dict(n_frames=1000, n_mels=128, frame_shift=10, resample=0, pad_value=0)
    assert (parts.spec.mean, parts.spec.std, parts.spec.towers.pretrained) == (-4.93839311, 5.75751113, 'openai')
    sf.write(tmp_path/'x.wav', np.random.default_rng(0).uniform(-.5, .5, 32000), 32000)
    listener = Listener.of(parts)
    assert listener.sounds(tmp_path/'x.wav').shape == (1, parts.encoder.sizes['output_dim'])
    listener.save_pretrained(tmp_path/'own')
    assert not (tmp_path/'own'/'towers.safetensors').exists()      # named, not copied
    assert torch.equal(Listener.from_pretrained(tmp_path/'own').sounds(tmp_path/'x.wav'),
                       listener.sounds(tmp_path/'x.wav'))

@pytest.mark.parametrize('name, said', [
    ('nowhere', "model 'nowhere' is not known"), ('tests', 'is no training: its record names no'),
    ('README.md', 'there is no readable README.json beside it')])
def test_what_is_no_model_is_told(name, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=said): find_parts(name)

# long recordings

PEAK = """
import resource, sys
from vipant.listen import Listener
found = Listener.from_pretrained(sys.argv[1]).embed(sys.argv[2], windows=True)
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

def test_an_hour_is_heard_in_flat_memory(weights, tmp_path):
    "An hour is 230 MB as float32; a minute and an hour need the same memory"
    peaks = []
    for minutes in (1, 60):
        path = tmp_path/f'{minutes}.wav'
        with sf.SoundFile(path, 'w', 16000, 1) as f:
            for k in range(minutes): f.write(np.random.default_rng(k).uniform(-.3, .3, 60*16000))
        r = subprocess.run([sys.executable, '-c', PEAK, str(weights), str(path)], capture_output=True, text=True,
                           env=os.environ, cwd=ROOT)
        assert r.returncode == 0, r.stderr
        n, peak = map(int, r.stdout.split())
        assert n == minutes*30
        peaks.append(peak/1024)
    assert peaks[1] - peaks[0] < 60, peaks      # MB

def test_windows_of_a_file_are_its_crops(listener, tmp_path):
    x = np.random.default_rng(0).uniform(-.3, .3, 16000*7).astype(np.float32)
    sf.write(tmp_path/'x.wav', x, 16000, subtype='FLOAT')
    found = listener.embed(tmp_path/'x.wav', windows=True)
    assert found.rows.start.tolist() == [0, 2, 4, 6] and found.rows.seconds.tolist() == [2, 2, 2, 1]
    for k in range(4):
        alone = listener.sounds(x[k*32000:(k + 1)*32000 + 800], 16000)[0].numpy()
        assert np.abs(found.x[k] - alone).max() < 1e-5

# commands

@pytest.fixture
def folder(paths, tmp_path):
    "Three sounds and a file that is none"
    for k, p in enumerate(paths[:3]): (tmp_path/f'{k}.wav').write_bytes(Path(p).read_bytes())
    (tmp_path/'bad.wav').write_text('no sound', encoding='utf-8')
    return tmp_path

def test_name_lists_what_it_cannot_read_and_does_the_others(folder, weights):
    r = vipant('name', folder, '--names', 'dog,cat', '--model', weights, '--json')
    assert r.returncode == 1 and len(json.loads(r.stdout)) == 3
    lines = r.stderr.strip().splitlines()
    assert 'bad.wav cannot be read as audio' in lines[-2]
    assert lines[-1] == 'vipant name: 1 of 4 sounds cannot be read'
    (folder/'names.txt').write_text('dog\nchurch bells\n', encoding='utf-8')
    r = vipant('name', folder/'0.wav', '--names', folder/'names.txt', '--top', 2, '--model', weights, '--csv')
    assert r.returncode == 0 and len(r.stdout.splitlines()) == 3, r.stderr

def test_embed_index_and_search_from_the_shell(folder, weights, listener):
    (folder/'bad.wav').unlink()
    r = vipant('embed', folder, '-o', folder/'x.parquet', '--model', weights)
    assert r.returncode == 0 and '3 embeddings of 3 sounds' in r.stdout, r.stderr
    table = pd.read_parquet(folder/'x.parquet')
    assert np.abs(np.stack(table.embedding) - listener.sounds(table.sound).numpy()).max() < 1e-6
    assert '(0 kept, 3 embedded, 0 gone)' in vipant('index', folder, '--model', weights).stdout
    [kept] = (folder/'.vipant').iterdir()
    assert len(load_embeddings(kept)) == 3
    r = vipant('search', 'a dog barks', folder, '--model', weights, '--json')
    assert r.returncode == 0, r.stderr
    expected = listener.search('a dog barks', sorted(map(str, folder.glob('*.wav'))))
    assert [f['sound'] for f in json.loads(r.stdout)] == list(expected.sound)
    r = vipant('search', folder, '--like', folder/'1.wav', '--top', 1, '--csv', '--model', weights)
    assert r.stdout.splitlines()[1].startswith(f'{folder}/1.wav'), r.stderr

@pytest.mark.parametrize('args, said', [
    (['name', 'nowhere.wav', '--names', 'dog'], 'nowhere.wav: there is no such file or folder'),
    (['name', 'x.wav', '--names', ','], 'holds no name'), (['search', 'a dog'], 'expected a sentence and a folder'),
    (['embed', '.', '-o', 'x.txt'], 'ends in .npz or .parquet'), (['index', 'README.md'], 'there is no such folder'),
    (['name', '.', '--names', 'dog', '--json', '--csv'], 'choose one of them')])
def test_wrong_words_are_one_line(args, said, weights):
    r = vipant(*args, *([] if args[0] == 'nothing' else ['--model', weights]))
    assert r.returncode == 1 and said in r.stderr and len(r.stderr.splitlines()) == 1, r.stderr
