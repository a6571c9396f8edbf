"A whole input of each kind, small, and the reader that a spoiled copy of it is given to"
import contextlib
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile as sf
from PIL import Image

from helpers import ROW, our_file, paint, parquet, put, written
from vipant import encoder
from vipant.data.hub_copies import copy_split
from vipant.data.layouts import audioset_labels, clips, label_map, read_coco_captions
from vipant.data.released_files import read_pairs
from vipant.data.videos import video_to_clip
from vipant.engine.artifacts import Artifact, check
from vipant.engine.checkpoints import Position, read_state, save_state, selected_epoch
from vipant.engine.config import profile
from vipant.engine.notebooks import read_stamp
from vipant.engine.results_file import COLUMNS, read_results, results_path
from vipant.frozen.features import Store
from vipant.models import released
from vipant.preprocessing import file_log_mel, load_image


@dataclass(frozen=True)
class Kind:
    "`make(folder)` writes the whole input, `files` of it are spoiled, one at a time, `read(folder)` reads it"
    make: Callable
    files: tuple
    read: Callable

# Sounds, pictures, videos

def _sound(name):
    def make(folder):
        x = np.random.default_rng(0).uniform(-.1, .1, (12000, 2)) + .3*np.sin(np.arange(12000)/9)[:, None]
        sf.write(folder/name, x, 24000)
    return Kind(make, (name,), lambda folder: file_log_mel(folder/name, 60, resample=16000))

def _picture(name):
    def make(folder):
        x = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        Image.fromarray(x).save(folder/name)
    return Kind(make, (name,), lambda folder: load_image(folder/name))

def _read_video(folder):
    out = folder/'out'
    try: video_to_clip(folder/'a.mp4', out/'a.wav', [out/f'a_{i}.jpg' for i in range(4)])
    except ValueError:
        assert not [*out.glob('*'), *out.glob('.*')], 'something half-written is left'
        raise
    assert len([*out.iterdir()]) == 5

# Lists

def _list(name, *lines, read):
    return Kind(lambda folder: put(folder/name, *lines), (name,), read)

AUDIOSET = ('# Segments csv created Sun Mar  5 10:54:25 2017', '# num_ytids=3, num_segs=3',
            '# YTID, start_seconds, end_seconds, positive_labels', '00W1lcxW-WU, 0.000, 10.000, "/m/dog"',
            '0-abcdefghi, 30.000, 40.000, "/m/dog,/m/cat"', '0_abcdefghi, 2.500, 12.500, "/m/cat"')
AUDIOCAPS = ('audiocap_id,youtube_id,start_time,caption', '91139,r1nicOVtvkQ,130,A woman talks nearby as water pours',
             '58146,UDGBjjwyaqE,20,"Café noise, and a bell"', '11542,3NHaDXiH-0I,160,A dog barks')
CLOTHO = ('file_name,caption_1,caption_2,caption_3,caption_4,caption_5', 'Rain on a roof.wav,It rains,Rain falls,'
          '"Rain, on tin",Drops,A storm', 'Bells 1.wav,A bell,Bells ring,Church bells,Ringing,A clock')
ESC50 = ('filename,fold,target,category,esc10,src_file,take', '1-100032-A-0.wav,1,0,dog,True,100032,A',
         '2-100038-A-14.wav,2,14,chirping_birds,False,100038,A', '5-100210-A-36.wav,5,36,vacuum_cleaner,False,1,A')
US8K = ('slice_file_name,fsID,start,end,salience,fold,classID,class',
        '100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark', '100263-2-0-117.wav,100263,58.5,62.5,1,5,2,children',
        '100648-1-0-0.wav,100648,4.823402,5.471927,2,10,1,car_horn')
COCO = json.dumps(dict(info={}, annotations=[dict(id=k, image_id=7, caption=f'A dog {k} in a café') for k in range(6)]))
ONTOLOGY = json.dumps([dict(id='/m/dog', name='Dog', child_ids=[]), dict(id='/m/cat', name='Cat', child_ids=[])])
PAIRS = json.dumps({'abc_30.000': [3, 1, 2], 'def_0.000': [0], 'ghi_1.500': []})

def _make_ontology(folder):
    put(folder/'audioset/eval_segments.csv', *AUDIOSET)
    put(folder/'audioset/ontology.json', ONTOLOGY)

def _with_labels(folder, name): return clips(folder, name), label_map(folder, name)

def _make_parquet(folder):
    rows = [ROW | dict(filename=f'1-{k}-A-0.wav', fold=1 + k % 5, take='AB'[k % 2]) for k in range(8)]
    sf.write(folder/'x.wav', np.sin(np.arange(1600)/9), 16000)
    for row in rows: row['audio'] = dict(bytes=(folder/'x.wav').read_bytes(), path=row['filename'])
    parquet(folder/'copy/data/train-0.parquet', rows)

# Weights

def _read_released(folder):
    before = sorted(f.name for f in folder.iterdir())
    try: released.convert(folder/'x.pth', folder/'x.safetensors')
    except ValueError:
        assert sorted(f.name for f in folder.iterdir()) == before, 'something half-written is left'
        raise
    encoder.load(folder/'x.safetensors')

# What a run leaves

def fill_store(out, cfg):
    "The builder of a store of the smallest kind"
    np.save(out/'x.npy', np.arange(60, dtype=np.float16).reshape(5, 12))
    (out/'ids.json').write_text(json.dumps(list('abcde')), encoding='utf-8')

def _store(): return Artifact(profile('smoke'), 'log_mel-toy', fill_store, reads=('fbank',))

def _read_store(folder):
    "What `vipant check` and the next run say of it; after it everything is as it was"
    said, path = [], _store().path
    said += [wrong for wrong in check(profile('smoke')).values() if wrong]
    before = {f.name: f.read_bytes() for f in path.iterdir()}
    if said: shutil.rmtree(path)                    # what `vipant rebuild` is for
    store = Store.open(_store().make())
    assert store.ids == list('abcde') and (store.x == np.arange(60).reshape(5, 12)).all(), 'built upon without a word'
    after = {f.name: f.read_bytes() for f in path.iterdir()}
    changed = {k for k in after if before.get(k) != after[k]}
    if changed: raise ValueError(f'{path}: {said or "made anew"}')

def _make_records(folder):
    import torch
    (folder/'stamp.json').write_text(json.dumps(dict(state='0'*64, figures={'a.png': '1'*64})), encoding='utf-8')
    (folder/'selected.json').write_text(json.dumps(dict(epoch=3, criterion='r10')), encoding='utf-8')
    save_state(folder/'state.pt', dict(model=torch.nn.Linear(4, 4)), Position(1, 8, 2., .5), dict(seed=0, epochs=2))
    row = ['smoke', 0, 'scores', 'honest', 'vip-AnT', 'ESC50', '', 'accuracy', 41.5, 38.2, 44.7, 400, 'epoch-03',
           profile('smoke').digest(), '0.1.0+abcdef12']
    path = results_path(profile('smoke'))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join([','.join(COLUMNS), *[','.join(map(str, row))]*4]) + '\n', encoding='utf-8')

def _read_rows(folder):
    "The reader of a results.csv goes on without its rows, and says so in a line"
    said = io.StringIO()
    with contextlib.redirect_stdout(said): read_results(profile('smoke'))
    if line := said.getvalue().strip(): raise ValueError(line)

def _read_stamp(path):
    if not read_stamp(path, {'state', 'figures'}): raise ValueError(f'{path}: counts as not made')

def _read_records(folder):
    _read_stamp(folder/'stamp.json')
    selected_epoch(folder)
    read_state(folder/'state.pt')

KINDS = {
    **{f'sound, {name}': _sound(f'a.{name}') for name in ('wav', 'flac', 'mp3', 'ogg')},
    **{f'picture, {name}': _picture(f'a.{name}') for name in ('jpg', 'png')},
    'list, AudioSet': _list('audioset/eval_segments.csv', *AUDIOSET, read=lambda d: clips(d, 'audioset', 'eval')),
    'list, AudioCaps': _list('audiocaps/val.csv', *AUDIOCAPS, read=lambda d: clips(d, 'audiocaps', 'val')),
    'list, Clotho': _list('clotho/clotho_captions_evaluation.csv', *CLOTHO,
                          read=lambda d: clips(d, 'clotho', 'evaluation')),
    'list, ESC-50': _list('esc50/meta/esc50.csv', *ESC50, read=partial(_with_labels, name='esc50')),
    'list, UrbanSound8K': _list('urbansound8k/metadata/UrbanSound8K.csv', *US8K,
                                read=partial(_with_labels, name='us8k')),
    'json, COCO': _list('coco/annotations/captions_val2017.json', COCO, read=read_coco_captions),
    'json, ontology': Kind(_make_ontology, ('audioset/ontology.json',), audioset_labels),
    'json, pairs': _list('pairs.json', PAIRS, read=lambda d: read_pairs(d/'pairs.json')),
    'video, mp4': Kind(lambda folder: paint(folder/'a.mp4', range(0, 1000, 250)), ('a.mp4',), _read_video),
    'copy, parquet': Kind(_make_parquet, ('copy/data/train-0.parquet',),
                          lambda folder: copy_split(folder/'out', 'esc50', 'all', folder/'copy')),
    'weights, safetensors': Kind(lambda folder: our_file(folder/'x.safetensors'), ('x.safetensors',),
                                 lambda folder: encoder.load(folder/'x.safetensors')),
    'weights, pth': Kind(lambda folder: written(folder/'x.pth'), ('x.pth',), _read_released),
    'run, stores': Kind(lambda folder: _store().make(), tuple(f'runs/smoke/log_mel-toy/{n}' for n in (
        'x.npy', 'ids.json', 'provenance.json')), _read_store),
    'run, records': Kind(_make_records, ('stamp.json', 'selected.json', 'state.pt'), _read_records),
    'run, results.csv': Kind(_make_records, ('figures/smoke-1seed/results.csv',),
                             _read_rows)}
