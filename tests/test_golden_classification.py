"""The classification head against numbers of the released code, and against a slow one where there are none"""
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vipant.classification import ClassificationHead, SupervisedLoss, fold_rows
from vipant.studies.audioset_classification import label_weights, mixed


@pytest.fixture(scope='module')
def bce(): return np.load(Path(__file__).parent/'golden'/'bce_head.npz', allow_pickle=False)

def test_binary_loss_and_gradients_match_the_released_code(bce):
    x, y = torch.tensor(bce['audio'], requires_grad=True), torch.tensor(bce['y'])
    loss = SupervisedLoss(ClassificationHead(x.shape[1], y.shape[1], bias=False))
    assert loss.head.linear.bias is None
    with torch.no_grad(): loss.head.linear.weight.copy_(torch.tensor(bce['linear_weight']))
    value = loss.loss(x, y)
    value.backward()
    assert value.item() == pytest.approx(bce['loss'].item(), abs=1e-5)
    np.testing.assert_allclose(x.grad, bce['grad_audio'], atol=1e-5)
    assert loss.head.logit_scale.grad.item() == pytest.approx(bce['grad_logit_scale'].item(), abs=1e-5)

def slow_cross_entropy(x, weight, bias, label, scale):
    "Layer norm, linear map and cross-entropy in float64, one clip at a time"
    total = 0.
    for row, c in zip(np.float64(x), label):
        row = (row - row.mean())/math.sqrt(row.var() + 1e-5)
        logits = [scale*(sum(w*v for w, v in zip(ws, row)) + b) for ws, b in zip(np.float64(weight), np.float64(bias))]
        total += math.log(sum(math.exp(l - max(logits)) for l in logits)) + max(logits) - logits[c]
    return total/len(x)

@pytest.mark.parametrize('seed', range(3))
def test_cross_entropy_matches_one_clip_at_a_time(seed):
    torch.manual_seed(seed)
    x, label, head = 3*torch.randn(12, 8) + 1, torch.randint(5, (12,)), ClassificationHead(8, 5)
    weight, bias = (p.detach().numpy() for p in (head.linear.weight, head.linear.bias))
    slow = slow_cross_entropy(x.numpy(), weight, bias, label.tolist(), 1/.07)
    assert SupervisedLoss(head).loss(x, label).item() == pytest.approx(slow, rel=1e-5)

def test_accuracy_is_the_mean_over_folds_not_over_clips():
    folds = [(np.zeros(30, int), np.zeros((1, 30), int)), (np.zeros(10, int), np.ones((1, 10), int))]
    row = next(r for r in fold_rows(folds, ['a', 'b'], 50) if r['metric'] == 'accuracy')
    assert row['value'] == .5 and row['n'] == 40
    assert row['ci_low'] < .5 < row['ci_high']

def test_interval_holds_the_mean_of_uneven_folds_about_as_often_as_it_says():
    "Folds of 40 and 20 clips, right with probability .8 and .5: the mean over folds is .65"
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        folds = [(np.zeros(n, int), (rng.random((1, n)) > p).astype(int)) for n, p in ((40, .8), (20, .5))]
        row = next(r for r in fold_rows(folds, ['a', 'b'], 200) if r['metric'] == 'accuracy')
        inside += row['ci_low'] <= .65 <= row['ci_high']
    assert .88 <= inside/200 <= .99

def test_rare_labels_weigh_more():
    targets = np.zeros((100, 3), int)
    targets[:, 0], targets[:2, 1] = 1, 1
    w = label_weights(targets)
    assert w[0] == pytest.approx(1000/101 + 1000/3) and w[50] == pytest.approx(1000/101)

def test_blend_is_a_waveform_of_the_first_ones_length():
    a, b = torch.randn(1, 100), torch.randn(1, 60)
    out = mixed(a, b, .4)
    np.testing.assert_allclose(out[:, :60], .4*a[:, :60] + .6*b, atol=1e-6)
    np.testing.assert_allclose(out[:, 60:], .4*a[:, 60:], atol=1e-6)
