"Broken input: counted and listed, or one clear line; never replaced, nothing half-written"
import contextlib
import json
import shutil

import pytest

from faults.disks import small_disk
from vipant.data.layouts import Coverage
from vipant.engine.config import profile
from vipant.engine.recipes import frame_embeddings, log_mels, raw_data
from vipant.engine.runtime import worker_pool
from vipant.frozen.features import Store, write_store


@pytest.fixture(scope='module')
def whole():
    return raw_data(profile('smoke')).make()

@pytest.fixture
def broken(whole, tmp_path, monkeypatch):
    "A copy of the AudioSet part of the world that a test may break, and the profile that reads it"
    for name in ('audioset', 'audiocaps', 'web'): shutil.copytree(whole/name, tmp_path/'data'/name)
    monkeypatch.setenv('VIPANT_RUNS', str(tmp_path/'runs'))
    return tmp_path/'data', lambda override='': profile('smoke', override=f'data.root={tmp_path}/data {override}')

def clip_ids(root, split):
    lines = (root/'audioset'/f'{split}_segments.csv').read_text(encoding='utf-8').splitlines()
    rows = [line.split(', ') for line in lines if not line.startswith('#')]
    return [f'{r[0]}_{float(r[1]):.3f}' for r in rows]

def test_unreadable_sound_is_listed_and_left_out(broken):
    root, cfg = broken
    artifact = log_mels(cfg('data.max_unreadable=.2'), 'audioset', 'balanced_train')
    ids = sorted(clip_ids(root, 'balanced_train'))
    (root/'audioset'/'audio'/f'{ids[3]}.wav').write_bytes(b'RIFF no wave')
    (root/'audioset'/'audio'/f'{ids[5]}.wav').unlink()
    folder = artifact.make()
    coverage = json.loads((folder/'coverage.json').read_text(encoding='utf-8'))
    counts = [coverage[k] for k in ('listed', 'present', 'readable')]
    assert counts == [len(ids), len(ids) - 1, len(ids) - 2]
    assert [id for id, _ in coverage['unreadable']] == [ids[3]]
    store = Store.open(folder)
    assert sorted(store.ids) == sorted(set(ids) - {ids[3], ids[5]}) and len(store.x) == len(store.ids)

def test_too_many_unreadable_sounds_stop_the_run(broken):
    root, cfg = broken
    for f in sorted((root/'audioset'/'audio').iterdir())[::2]: f.write_bytes(b'')
    artifact = log_mels(cfg(), 'audioset', 'balanced_train')
    said = 'balanced_train: .* files are unreadable, allowed is a share of 0.02'
    with pytest.raises(ValueError, match=said): artifact.make()
    assert not artifact.path.exists()

def test_unreadable_frame_is_listed_and_left_out(broken):
    root, cfg = broken
    id = clip_ids(root, 'eval')[0]
    (root/'audioset'/'frames'/f'{id}_2.jpg').write_bytes(b'\xff\xd8 no picture')
    folder = frame_embeddings(cfg('data.max_unreadable=.2'), 'audioset', 'eval').make()
    coverage = json.loads((folder/'coverage.json').read_text(encoding='utf-8'))
    assert [i for i, _ in coverage['unreadable']] == [id] and id not in Store.open(folder).ids

def test_csv_without_a_column(broken):
    root, cfg = broken
    (root/'audiocaps'/'val.csv').write_text('audiocap_id,youtube_id,caption\n1,abc,A dog barks\n', encoding='utf-8')
    with pytest.raises(ValueError, match='val.csv.*start_time'): log_mels(cfg(), 'audiocaps', 'val').make()

def test_missing_csv(broken):
    root, cfg = broken
    (root/'audiocaps'/'val.csv').unlink()
    with pytest.raises(FileNotFoundError, match='val.csv'): log_mels(cfg(), 'audiocaps', 'val').make()

def test_a_sound_that_was_replaced_is_noticed(broken):
    "Same csv, another sound: what was made from it is made anew, what was not is left"
    root, cfg = broken
    split = 'audioset', 'balanced_train'
    sounds, frames = log_mels(cfg(), *split), frame_embeddings(cfg(), *split)
    before = sounds.make(), (sounds.path/'x.npy').read_bytes(), frames.key
    first, second = (root/'audioset'/'audio'/f'{id}.wav' for id in clip_ids(root, 'balanced_train')[:2])
    part = first.with_suffix('.new')
    shutil.copy(second, part)
    part.replace(first)         # as a copy over it by most tools
    assert not sounds.ready() and (sounds.make()/'x.npy').read_bytes() != before[1]
    assert frames.key != before[2]

def _fill_store(folder):
    write_store(folder, list('abc'), lambda k: 1., (400, 1000), Coverage('toy', 'train', 3, 3), 0.)

def test_a_store_that_a_disk_has_no_room_for_is_an_error_of_its_file(tmp_path):
    "Not the end of the process (SIGBUS) at the first row that finds no room: in a process of its own, therefore"
    with contextlib.ExitStack() as stack:
        try: disk = stack.enter_context(small_disk(tmp_path/'disk', '1m'))
        except OSError as e: pytest.skip(str(e))
        with worker_pool(1) as pool:
            filled = pool.submit(_fill_store, disk)
            with pytest.raises(OSError, match='No space left on device: .*x.npy'): filled.result()
