"Ties count for the query: an encoder that has collapsed would score best of all, and is refused with its name"
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from vipant import encoder
from vipant.encoder import AudioEncoder
from vipant.engine.config import profile
from vipant.engine.recipes import SOUNDS
from vipant.evaluation import check_not_collapsed, ranks, retrieval, va_retrieval
from vipant.models import benchmark

SIZES = dict(n_frames=16, n_mels=16, stride=(8, 8), width=16, layers=1, heads=2, patch=8, output_dim=4)
N = 6

def test_of_equals_the_query_wins():
    scores = torch.tensor([[.5, .5, .1], [.9, .5, .5], [.1, .2, .3]])
    assert ranks(scores, torch.tensor([0, 1, 2])).tolist() == [0, 1, 0]
    zero = retrieval(torch.zeros(4, 3), torch.randn(20, 3))
    assert zero['a2t']['R@1'] == zero['t2a']['R@1'] == 1        # as measured on the way of a training
    assert va_retrieval(torch.zeros(4, 3), torch.zeros(4, 3), [{1}, {2}, {3}, {4}])['i2a']['precision@1'] == .25

def draws(seed): return torch.randn(N, 4, generator=torch.Generator().manual_seed(seed))

@pytest.mark.parametrize('x', (
    torch.zeros(N, 4), torch.ones(N, 4), torch.ones(N, 4)*torch.arange(1, N + 1)[:, None],
    torch.ones(N, 4) + 1e-7*draws(0), draws(0)*torch.tensor([1., 1., 0., 1., 1., 1.])[:, None]))
def test_embeddings_that_tell_nothing_apart_are_refused(x):
    with pytest.raises(ValueError, match='va-clip-s0, sounds: .*expected embeddings that differ') as e:
        check_not_collapsed(x, 'va-clip-s0, sounds')
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('x', (
    draws(0), draws(0)[:1], torch.ones(N, 4) + 1e-4*draws(0), draws(0).half(), draws(0)[[0]*(N - 1) + [1]]))
def test_embeddings_that_differ_pass(x): check_not_collapsed(x, 'x')

# scores

class TinyTasks(benchmark.Tasks):
    "Retrieval tasks alone, over a few sounds of noise"
    def __init__(self, cfg, data, texts, norm, sounds):
        self.cfg, self.targets = cfg, {}
        self.texts = {name: torch.from_numpy(np.load(texts/f'{name}.npy')) for name in ('audiocaps', 'clotho')}

    def embed(self, encoder):
        fbank = torch.randn(N, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(): return dict.fromkeys(sorted(SOUNDS), encoder(fbank))

@pytest.fixture
def scored(tmp_path, monkeypatch):
    "A function that scores a training of two epochs, with what is done to its last, and to its texts"
    few = {name: v for name, v in SOUNDS.items() if name in ('AudioCaps', 'Clotho')}
    monkeypatch.setattr(benchmark, 'Tasks', TinyTasks)
    monkeypatch.setattr(benchmark, 'SOUNDS', few)
    cfg, texts, training = profile('smoke'), tmp_path/'texts', tmp_path/'va-tiny-s0'
    for folder in (texts, training, tmp_path/'out'): folder.mkdir()
    (training/'selected.json').write_text(json.dumps(dict(epoch=1)), encoding='utf-8')
    def score(spoil=lambda model: None, text=None, both=True):
        torch.manual_seed(0)
        model = AudioEncoder(**SIZES).eval()
        encoder.save(model, training/'epoch-01.safetensors')
        with torch.no_grad(): spoil(model)
        encoder.save(model, training/'epoch-02.safetensors')
        for n, name in enumerate(('audiocaps', 'clotho')):
            own = torch.randn(5*N, 4, generator=torch.Generator().manual_seed(n))
            np.save(texts/f'{name}.npy', own if text is None else text)
        benchmark.score_training(tmp_path/'out', cfg, None, None, texts, training, both)
        return (tmp_path/'out'/'rows.csv').read_text(encoding='utf-8')
    score.training, score.out = training, tmp_path/'out'
    return score

def refused(scored, said, kind=ValueError, **kw):
    with pytest.raises(kind, match=said) as e: scored(**kw)
    assert '\n' not in str(e.value) and not [*scored.out.iterdir()]

def zero_head(model): model.proj.zero_()

def one_value(model):
    "The last norm forgets its input"
    model.ln_post.weight.zero_()
    model.ln_post.bias.fill_(1.)

def test_a_collapsed_epoch_is_not_scored(scored):
    refused(scored, f'va-tiny-s0, epoch 2, sounds of AudioCaps: {N} of {N} embeddings are zero', spoil=zero_head)
    refused(scored, f'va-tiny-s0, epoch 2, sounds of AudioCaps: all {N} embeddings are of one', spoil=one_value)
    rows = scored(both=False, spoil=zero_head)         # that epoch is not asked for
    assert 'R@1' in rows and 'honest' in rows

def test_texts_that_are_all_alike_are_not_scored(scored):
    zeros = np.zeros((5*N, 4), np.float32)
    refused(scored, 'texts audiocaps in .*: 30 of 30 embeddings are zero', text=zeros)
    refused(scored, 'texts audiocaps in .*: all 30 embeddings are of one direction', text=zeros + 1)

def test_what_differs_is_scored(scored):
    rows = pd.read_csv(io.StringIO(scored()))
    assert set(rows.protocol) == {'honest', 'paper', 'difference'} and rows.value.notna().all()

def test_the_chosen_epoch_must_be_there(scored):
    scored()
    for f in scored.out.iterdir(): f.unlink()
    (scored.training/'selected.json').write_text('{"epoch": 9}', encoding='utf-8')
    refused(scored, r'va-tiny-s0: selected.json names epoch 9, there are weights of \[1, 2\]', FileNotFoundError)
    (scored.training/'selected.json').write_text('', encoding='utf-8')
    refused(scored, r'selected.json cannot be read: expected json with epoch')
