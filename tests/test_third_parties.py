"""Measures, mining and the front end against the packages that others use

Each tolerance stands in its test: retrieval and average precision in float64 agree to rounding (1e-6: torchmetrics
counts in float32), neighbours exactly, log-mels to 5e-4: Kaldi's C++ sums in another order, in float32; the largest
difference seen is 2.5e-4, in single cells.
"""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score

from vipant.curation import mine
from vipant.evaluation import average_precisions, average_precisions_at, others_above, retrieval, similarity
from vipant.preprocessing import log_mel, normalise

N, PER_CLIP = 60, 5

@pytest.fixture(scope='module')
def embeddings():
    "Sounds (N, D) and their captions (5 N, D)"
    rng = torch.Generator().manual_seed(0)
    audio = torch.randn(N, 24, generator=rng)
    return audio, audio.repeat_interleave(PER_CLIP, 0) + 5*torch.randn(N*PER_CLIP, 24, generator=rng)

def queries(audio, text, direction):
    "Scores, which are right, and the number of the query, as torchmetrics wants them"
    s, caption = similarity(audio, text), torch.arange(len(text))
    right = caption[None]//PER_CLIP == torch.arange(len(audio))[:, None]
    if direction == 't2a': s, right = s.T, right.T
    return s, right, torch.arange(len(s))[:, None].expand_as(s)

@pytest.mark.parametrize('direction', ['a2t', 't2a'])
@pytest.mark.parametrize('k', [1, 5, 10])
def test_recall_is_torchmetrics_hit_rate(embeddings, direction, k):
    metric = pytest.importorskip('torchmetrics.retrieval', reason='a package for tests alone').RetrievalHitRate(top_k=k)
    s, right, query = queries(*embeddings, direction)
    theirs = metric(s.flatten(), right.flatten(), query.flatten()).item()
    assert 0 < theirs < 1
    assert retrieval(*embeddings)[direction][f'R@{k}'] == pytest.approx(theirs, abs=1e-6)

def test_map_at_10_is_torchmetrics_where_one_is_right(embeddings):
    metric = pytest.importorskip('torchmetrics.retrieval', reason='a package for tests alone').RetrievalMAP(top_k=10)
    s, right, query = queries(*embeddings, 't2a')
    theirs = metric(s.flatten(), right.flatten(), query.flatten()).item()
    assert retrieval(*embeddings)['t2a']['mAP@10'] == pytest.approx(theirs, abs=1e-6)

def test_map_at_10_divides_by_five_where_torchmetrics_divides_by_the_found(embeddings):
    functional = pytest.importorskip('torchmetrics.functional.retrieval', reason='a package for tests alone')
    s, right, _ = queries(*embeddings, 'a2t')
    found = torch.stack([own[row.topk(10).indices].sum() for row, own in zip(s, right)])
    theirs = torch.stack([functional.retrieval_average_precision(row, own, top_k=10) for row, own in zip(s, right)])
    assert ((found > 0) & (found < PER_CLIP)).any()
    ours = retrieval(*embeddings)['a2t']['AP@10']
    np.testing.assert_allclose(ours, theirs*found/PER_CLIP, atol=1e-6)

def test_ap_without_a_limit_is_scikit_learns(embeddings):
    s, right, _ = queries(*embeddings, 'a2t')
    own = torch.arange(N*PER_CLIP).view(N, PER_CLIP)
    theirs = [average_precision_score(own_ones, row) for row, own_ones in zip(s, right)]
    np.testing.assert_allclose(average_precisions_at(others_above(s, own), k=N*PER_CLIP), theirs, atol=1e-9)

def many_labels(ties):
    "Scores and targets (N, C) of clips with several labels; every class has clips"
    rng = np.random.default_rng(1)
    scores = rng.random((200, 12)).astype(np.float32)
    targets = (rng.random((200, 12)) < .1 + .3*scores).astype(int)
    return (np.round(scores, 1) if ties else scores), targets

@pytest.mark.parametrize('ties', [False, True])
def test_average_precision_is_torchmetrics_and_scikit_learns(ties):
    classification = pytest.importorskip('torchmetrics.classification', reason='a package for tests alone')
    scores, targets = many_labels(ties)
    ours = average_precisions(scores, targets)
    np.testing.assert_allclose(ours, average_precision_score(targets, scores, average=None), atol=1e-9)
    metric = classification.MultilabelAveragePrecision(num_labels=12, average=None)
    theirs = metric(torch.from_numpy(scores), torch.from_numpy(targets))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)

def test_a_class_without_clips_counts_zero_where_torchmetrics_leaves_it_out():
    classification = pytest.importorskip('torchmetrics.classification', reason='a package for tests alone')
    scores, targets = many_labels(False)
    targets[:, 3] = 0
    metric = classification.MultilabelAveragePrecision(num_labels=12, average=None)
    with pytest.warns(UserWarning): theirs = metric(torch.from_numpy(scores), torch.from_numpy(targets))
    assert average_precisions(scores, targets)[3] == 0 and not theirs[3] > 0

def test_mining_finds_the_neighbours_of_faiss():
    faiss = pytest.importorskip('faiss', reason='a package for tests alone, with wheels for Linux')
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(30, 4, 32)).astype(np.float32)
    captions = torch.from_numpy(rng.normal(size=(700, 32)).astype(np.float32))
    index = faiss.IndexFlatIP(32)
    index.add(F.normalize(captions, dim=1).numpy())
    _, theirs = index.search(F.normalize(torch.from_numpy(frames).reshape(-1, 32), dim=1).numpy(), 10)
    assert (mine(frames, captions, 10, block=7).reshape(-1, 10) == theirs).all()

def sound(rate, seconds=2.):
    "Two tones that glide, and noise (1, samples)"
    t = torch.arange(int(rate*seconds))/rate
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(3))
    return (.3*torch.sin(2*np.pi*(200 + 400*t)*t) + .1*torch.sin(2*np.pi*3000*t) + .1*noise)[None]

@pytest.mark.parametrize('rate, bins', [(16000, 64), (16000, 80), (44100, 128)])
def test_log_mels_are_those_of_kaldi(rate, bins):
    knf = pytest.importorskip('kaldi_native_fbank', reason='a package for tests alone')
    options = knf.FbankOptions()
    options.frame_opts.samp_freq, options.frame_opts.dither = rate, 0.
    options.frame_opts.window_type, options.mel_opts.num_bins = 'hanning', bins
    kaldi, waveform = knf.OnlineFbank(options), sound(rate)
    kaldi.accept_waveform(rate, waveform[0].tolist())
    kaldi.input_finished()
    theirs = np.stack([kaldi.get_frame(k) for k in range(kaldi.num_frames_ready)])
    ours = log_mel(waveform, rate, n_mels=bins)
    assert ours.shape == theirs.shape and ours.std() > 1
    np.testing.assert_allclose(ours, theirs, atol=5e-4)

def test_log_mels_are_those_of_the_ast_extractor():
    from transformers import ASTFeatureExtractor

    extractor, waveform = ASTFeatureExtractor(max_length=200), sound(16000, 2.1)
    theirs = extractor(waveform[0].numpy(), sampling_rate=16000, return_tensors='pt').input_values[0]
    ours = normalise(log_mel(waveform, 16000)[:200], extractor.mean, 2*extractor.std)     # AST halves the deviation
    assert theirs.shape == ours.shape == (200, 128)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
