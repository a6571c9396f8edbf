"""The golden numbers on the road that trainings and scores take: file -> store -> batch -> masks

The stores keep float16, so FBANKs are met to half of its step at 16, over the deviation; masks are met exactly.
"""

import numpy as np
import pytest
import soundfile as sf
import torch

from golden_inputs import SAMPLE_RATE, golden, pcm
from vipant.engine.config import profile
from vipant.frozen.features import Store, fbank_batch, load_norms, write_log_mels, write_norms
from vipant.models.trainings import Sampler

NAMES = ('w10', 'w4', 'w12')
STEP = 2**-7/5.75751113     # of float16 between 8 and 16, in units of the norms

@pytest.fixture(scope='module')
def cfg(): return profile('paper')

@pytest.fixture(scope='module')
def store(cfg, tmp_path_factory):
    "The store that the paper's profile makes of the golden sounds, written as wav files in ESC-50's layout"
    root, out = (tmp_path_factory.mktemp(name) for name in ('esc50', 'log_mel'))
    for name in ('meta', 'audio'): (root/name).mkdir()
    for name in NAMES: sf.write(root/'audio'/f'{name}.wav', pcm(name).T, SAMPLE_RATE, subtype='PCM_16')
    rows = ''.join(f'{name}.wav,1,0,tone\n' for name in NAMES)
    (root/'meta'/'esc50.csv').write_text('filename,fold,target,category\n' + rows, encoding='utf-8')
    write_log_mels(out, cfg, root, 'esc50', 'all', cfg.fbank.n_frames)
    return Store.open(out)

@pytest.fixture(scope='module')
def norms(cfg, tmp_path_factory):
    out = tmp_path_factory.mktemp('norms')
    write_norms(out, cfg)
    return load_norms(out)

@pytest.mark.parametrize('name', NAMES)
def test_a_stored_row_normalised_is_the_authors_fbank(store, norms, name):
    ours = fbank_batch(store, store.rows([name]), norms)[0, 0]
    np.testing.assert_allclose(ours[::7, ::3], golden('fbank')[f'final_sub_{name}_1000'], rtol=0, atol=STEP/2 + 1e-4)

def test_sounds_longer_than_the_input_are_named(store):
    assert store.longer == {'w12'}

def test_training_masks_are_the_authors(cfg, store, norms):
    sampler, rows = Sampler(cfg, cfg.va, store, norms, [0], {}), store.rows(['w10'])
    plain = fbank_batch(store, rows, norms)[0, 0]
    for seed, *expected in golden('augment')['mask_seed_f0_f1_t0_t1']:
        torch.manual_seed(int(seed))
        masked = sampler.audio(rows)[0, 0]
        f0, f1, t0, t1 = (int(v) for v in expected)
        by_hand = plain.clone()
        by_hand[:, f0:f1], by_hand[t0:t1] = 0, 0
        assert torch.equal(masked, by_hand), int(seed)
