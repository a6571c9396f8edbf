"""The readers on real files: official lists, whole, and what media there are under $VIPANT_DATA; what they import"""
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vipant.data.clip_tables import present
from vipant.data.layouts import audioset_labels, clips, label_map, label_names, read_audioset, read_coco_captions

CLASSES = 'd3ff99aede221b66c36edc3aec6e58ffd24fbbd4d125e87052ddf5b7afb68ed2'    # SHA-256 of the 527 names, a line each

@pytest.fixture
def root():
    if not os.environ.get('VIPANT_DATA'): pytest.skip('VIPANT_DATA is not set')
    return Path(os.environ['VIPANT_DATA'])

def need(path):
    if not path.exists(): pytest.skip(f'no {path.name} under VIPANT_DATA')

@pytest.mark.parametrize('split, n', [('balanced_train', 22160), ('eval', 20371)])
def test_audioset_lists_are_read_whole(root, split, n):
    need(root/'audioset'/f'{split}_segments.csv')
    ds = read_audioset(root, split)
    assert len(ds) == len(set(ds['id'])) == n
    assert len({m for mids in ds['labels'] for m in mids}) == 527
    assert all(mids == sorted(mids) for mids in ds['labels'])

def test_audioset_counts_distinct_label_sets_as_published(root):
    need(root/'audioset'/'balanced_train_segments.csv')
    ds = read_audioset(root, 'balanced_train')
    assert ds[0]['id'] == '--PJHxphWEs_30.000' and ds[0]['labels'] == ['/m/09x0r', '/t/dd00088']
    assert len({tuple(mids) for mids in ds['labels']}) == 5561

def test_audioset_classes_come_in_the_released_order(root):
    need(root/'audioset'/'ontology.json')
    names = label_names(root, 'audioset')
    assert (len(names), names[:2], names[-1]) == (527, ['speech', 'male speech, man speaking'], 'field recording')
    assert hashlib.sha256('\n'.join(names).encode()).hexdigest() == CLASSES
    assert audioset_labels(root) == audioset_labels(root, 'index')

@pytest.mark.parametrize('split, n, captions', [('train', 49838, 1), ('val', 495, 5), ('test', 975, 5)])
def test_audiocaps_lists_are_read_whole(root, split, n, captions):
    need(root/'audiocaps'/f'{split}.csv')
    ds = clips(root, 'audiocaps', split)
    assert len(ds) == len(set(ds['id'])) == n
    assert {len(c) for c in ds['captions']} == {captions}

def test_audiocaps_keeps_the_order_of_the_file(root):
    need(root/'audiocaps'/'train.csv')
    first = clips(root, 'audiocaps', 'train')[0]
    assert (first['id'], first['captions']) == ('r1nicOVtvkQ_130.000', ['A woman talks nearby as water pours'])

@pytest.mark.parametrize('split, n', [('development', 3839), ('validation', 1045), ('evaluation', 1045)])
def test_clotho_lists_are_read_whole_with_their_odd_names(root, split, n):
    need(root/'clotho'/f'clotho_captions_{split}.csv')
    ds = clips(root, 'clotho', split)
    assert len(ds) == len(set(ds['id'])) == n
    assert {len(c) for c in ds['captions']} == {5}
    if split == 'development': assert {'KOOKABURRA..WAV', ' Ambience Birds'} <= set(ds['id'])

def test_clotho_sounds_that_are_there_are_found(root):
    need(root/'clotho'/'evaluation'/'Flipping Pages.wav')
    ds, coverage = present(clips(root, 'clotho', 'evaluation'))
    assert 'Flipping Pages' in ds['id'] and coverage.listed == 1045
    assert coverage.present == len(ds) == len(list((root/'clotho'/'evaluation').glob('*.wav')))
    assert all(Path(p).is_file() for p in ds['audio'])

def test_urbansound8k_list_is_read_whole(root):
    need(root/'urbansound8k')
    ds = clips(root, 'us8k')
    assert len(ds) == 8732
    assert Counter(ds['fold']) == {1: 873, 2: 888, 3: 925, 4: 990, 5: 936, 6: 823, 7: 838, 8: 806, 9: 816, 10: 837}
    assert label_names(root, 'us8k') == ['air conditioner', 'car horn', 'children playing', 'dog bark', 'drilling',
                                         'engine idling', 'gun shot', 'jackhammer', 'siren', 'street music']

def test_a_list_without_its_sounds_says_where_they_were_expected(root):
    need(root/'urbansound8k')
    if (root/'urbansound8k'/'audio').exists(): pytest.skip('the sounds are there')
    said = 'us8k all: 8732 clips are listed, none is on disk; looked in .*urbansound8k.audio'
    with pytest.raises(FileNotFoundError, match=said): present(clips(root, 'us8k'))

def test_esc10_has_400_sounds_in_five_folds(root):
    need(root/'esc10')
    ds, coverage = present(clips(root, 'esc10'))
    assert len(ds) == coverage.listed == coverage.present == 400
    assert Counter(ds['fold']) == {k: 80 for k in range(1, 6)}
    count = Counter(label for labels in ds['labels'] for label in labels)
    assert count == {label: 40 for label in label_map(root, 'esc10')}
    assert label_names(root, 'esc10') == ['dog', 'rooster', 'rain', 'sea waves', 'crackling fire',
                                          'crying baby', 'sneezing', 'clock tick', 'helicopter', 'chainsaw']
    assert clips(root/'esc10', 'esc10')[:] == ds[:]

def test_esc50_recordings_as_released_are_found(root):
    need(root/'esc50-sample')
    ds, coverage = present(clips(root/'esc50-sample', 'esc50'))
    assert len(ds) == coverage.listed == 10
    assert all(p.endswith('.wav') and Path(p).is_file() for p in ds['audio'])

def test_coco_captions_are_stripped_and_in_order(root):
    need(root/'coco')
    captions = read_coco_captions(root)
    assert len(captions) >= 395 and all(c == c.strip() and c for c in captions)

@pytest.mark.parametrize('module', ('layouts', 'hub_copies', 'videos', 'released_files'))
def test_a_reader_is_imported_without_waiting_for_what_it_may_not_need(module):
    code = f'import sys, vipant.data.{module}; print(*{{"torch", "datasets", "pandas", "pyarrow"}} & {{*sys.modules}})'
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (p.returncode, p.stdout.split()) == (0, []), p.stderr
