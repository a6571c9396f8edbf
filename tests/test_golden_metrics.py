"""Measures and tokens against the numbers of the released code, and against slow ones where there are none"""
from pathlib import Path

import numpy as np
import pytest

from vipant.evaluation import (
    average_precisions,
    bootstrap,
    bootstrap_map,
    kfold,
    mean_average_precision,
    one_to_one,
    retrieval,
    va_retrieval,
    zero_shot,
    zero_shot_predictions,
)

golden = Path(__file__).parent/'golden'

@pytest.fixture(scope='module')
def at5(): return np.load(golden/'retrieval_at5.npz')

@pytest.mark.parametrize('direction', ['a2t', 't2a'])
def test_retrieval_gives_the_released_ranks_and_statistics(at5, direction):
    row = retrieval(at5['audio'], at5['text'])[direction]
    assert row['ranks'].tolist() == at5[f'rank_{direction}'].astype(int).tolist()
    ours = [100*row[f'R@{k}'] for k in (1, 5, 10, 50)] + [row['median_rank'], row['mean_rank']]
    np.testing.assert_allclose(ours, at5[f'{direction}_R1_R5_R10_R50_MED_AVG'], atol=1e-4)

def test_retrieval_does_not_depend_on_the_length_of_the_vectors(at5):
    lengths = np.random.default_rng(0).uniform(.1, 10, size=(len(at5['text']), 1)).astype(np.float32)
    assert retrieval(at5['audio'], at5['text']*lengths)['t2a']['ranks'].tolist() == at5['rank_t2a'].astype(int).tolist()

def test_retrieval_does_not_depend_on_the_order_of_the_clips(at5):
    order = np.random.default_rng(0).permutation(len(at5['audio']))
    captions = (order[:, None]*5 + np.arange(5)).ravel()
    shuffled, straight = retrieval(at5['audio'][order], at5['text'][captions]), retrieval(at5['audio'], at5['text'])
    assert shuffled['a2t']['ranks'].tolist() == straight['a2t']['ranks'][order].tolist()
    assert shuffled['t2a']['ranks'].tolist() == straight['t2a']['ranks'][captions].tolist()

def test_median_of_an_even_number_of_ranks_is_the_lower_one():
    audio, text = np.eye(4), np.eye(4)[[0, 1, 3, 2]] + .1*np.eye(4)
    assert sorted(retrieval(audio, text, 1)['a2t']['ranks'].tolist()) == [0, 0, 1, 1]
    assert retrieval(audio, text, 1)['a2t']['median_rank'] == 1

def slow_va(queries, keys, sets):
    "Precision and recall at 1 over queries and over label sets, one query at a time"
    unit = lambda x: x/np.linalg.norm(x)
    p, r = {}, {}
    for i, q in enumerate(queries):
        top = max(range(len(keys)), key=lambda j: unit(q) @ unit(keys[j]))
        hit = set(sets[top]) == set(sets[i])
        p.setdefault(frozenset(sets[i]), []).append(hit)
        r.setdefault(frozenset(sets[i]), []).append(hit/sum(set(s) == set(sets[i]) for s in sets))
    every = lambda d: np.mean([x for xs in d.values() for x in xs])
    by_set = lambda d: np.mean([np.mean(xs) for xs in d.values()])
    return [every(p), every(r), by_set(p), by_set(r)]

@pytest.mark.parametrize('seed', range(3))
def test_va_retrieval_matches_one_query_at_a_time(seed):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(48, 16))
    audio = image + 1.5*rng.normal(size=(48, 16))
    sets = [tuple(rng.permutation(6)[:rng.integers(1, 3)].tolist()) for _ in range(48)]
    v = va_retrieval(image, audio, sets)
    np.testing.assert_allclose(list(v['i2a'].values()), slow_va(image, audio, sets), atol=1e-9)
    np.testing.assert_allclose(list(v['a2i'].values()), slow_va(audio, image, sets), atol=1e-9)

def test_va_retrieval_knows_a_set_of_labels_in_any_order():
    e = np.eye(2)[[1, 0]]
    half = {'precision@1': 1., 'recall@1': .5, 'precision@1 by label set': 1., 'recall@1 by label set': .5}
    assert va_retrieval(e, np.eye(2), [('a', 'b'), ('b', 'a')])['i2a'] == half
    assert va_retrieval(e, np.eye(2), [('a', 'b'), ('a',)])['i2a']['precision@1'] == 0.

def test_one_to_one_matches_a_sort():
    rng = np.random.default_rng(0)
    x1 = rng.normal(size=(50, 16))
    x2 = x1 + 2*rng.normal(size=(50, 16))
    n1, n2 = (x/np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x2))
    for key, s in (('1to2', n1 @ n2.T), ('2to1', n2 @ n1.T)):
        order = np.argsort(-s, axis=1)
        for k in (1, 5):
            assert one_to_one(x1, x2)[key][f'top{k}'] == pytest.approx(np.mean([i in order[i, :k] for i in range(50)]))

def test_zero_shot_with_and_without_cosine_matches_one_clip_at_a_time():
    rng = np.random.default_rng(0)
    text, target = rng.normal(size=(10, 16))*rng.uniform(.3, 3, size=(10, 1)), rng.integers(10, size=100)
    audio = text[target] + 2*rng.normal(size=(100, 16))
    dot = [int(np.argmax(text @ a)) for a in audio]
    cosine = [int(np.argmax(text @ a/np.linalg.norm(text, axis=1))) for a in audio]
    assert dot != cosine
    assert zero_shot_predictions(audio, text, cosine=False).tolist() == dot
    assert zero_shot_predictions(audio, text).tolist() == cosine
    assert zero_shot(audio, text, target, cosine=False) == pytest.approx(np.mean(np.array(dot) == target))

def slow_ap(score, hit):
    "Sum over thresholds of (step in recall) x precision"
    ap, before = 0., 0
    for t in sorted(set(score), reverse=True):
        taken = score >= t
        ap += (hit[taken].sum() - before)/hit.sum() * hit[taken].mean()
        before = hit[taken].sum()
    return ap

@pytest.mark.parametrize('levels', [5, 50, 10**6])
def test_average_precision_matches_a_walk_over_thresholds_and_sklearn(levels):
    from sklearn.metrics import average_precision_score
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(120, 15)).astype(np.float32)
    targets = (rng.random((120, 15)) < .15).astype(int)
    targets[0] = 1
    ap = average_precisions(scores, targets).numpy()
    columns = list(zip(scores.T, targets.T))
    np.testing.assert_allclose(ap, [slow_ap(s, t) for s, t in columns], atol=1e-12)
    np.testing.assert_allclose(ap, [average_precision_score(t, s) for s, t in columns], atol=1e-12)

def test_classes_without_positives_lower_the_mean():
    scores, targets = np.array([[2., 1.], [1., 2.]]), np.array([[1, 0], [0, 0]])
    assert mean_average_precision(scores, targets) == .5

def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        low, high = bootstrap(rng.normal(size=100), n=200, seed=i)
        hits += low <= 0 <= high
    assert 178 <= hits <= 198   # 190 expected, standard deviation 3

def slow_bootstrap_map(scores, targets, n):
    "Interval of the mAP of clips drawn `n` times, each time sorted anew, centred on the mAP"
    rng, size = np.random.default_rng([0, 5]), len(scores)
    drawn = [rng.integers(size, size=size) for _ in range(n)]
    draws = np.array([mean_average_precision(scores[i], targets[i]) for i in drawn])
    return np.quantile(draws, [.025, .975]) + mean_average_precision(scores, targets) - draws.mean()

def test_bootstrap_of_map_is_deterministic_and_that_of_the_drawn_clips():
    rng = np.random.default_rng(0)
    scores, targets = rng.random((300, 52)), (rng.random((300, 52)) < .1).astype(int)
    interval = bootstrap_map(scores, targets, n=30)
    assert interval == bootstrap_map(scores, targets, n=30) and interval[0] < interval[1]
    np.testing.assert_allclose(interval, slow_bootstrap_map(scores, targets, 30), atol=1e-6)

def test_kfold_takes_the_epoch_with_the_largest_sum_and_the_population_std():
    acc = np.random.default_rng(0).random((5, 12))
    sums = [sum(acc[f, e] for f in range(5)) for e in range(12)]
    best = sums.index(max(sums))
    k = kfold(acc)
    assert k['paper']['epoch'] == best and k['honest']['epoch'] == 11
    assert k['paper']['mean'] == pytest.approx(sums[best]/5)
    assert k['paper']['std'] == pytest.approx((sum((acc[f, best] - sums[best]/5)**2 for f in range(5))/5)**.5)

def test_tokens_are_those_of_the_released_code():
    import open_clip
    z = np.load(golden/'tokens.npz')
    texts = (golden/'token_texts.txt').read_text(encoding='utf-8').splitlines()
    ids = open_clip.get_tokenizer('ViT-B-32')(texts).numpy()
    width = z['ids'].shape[1]
    assert ids[:, :width].tolist() == z['ids'].tolist() and not ids[:, width:].any()
    assert (ids != 0).sum(1).tolist() == z['lengths'].tolist()
