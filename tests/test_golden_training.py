"""Loss, optimiser and schedule against numbers of the released code, and against slow references of their own"""
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vipant.training import LARS, ContrastiveLoss, InfoNCE, lars_groups, lr_factor

HERE = Path(__file__).parent/'golden'

@pytest.fixture(scope='module')
def lars(): return np.load(HERE/'lars.npz', allow_pickle=False)

@pytest.fixture(scope='module')
def contrastive(): return np.load(HERE/'contrastive.npz', allow_pickle=False)

def leaf(x): return torch.tensor(x, requires_grad=True)

def numpy_info_nce(a, b, log_scale):
    "The loss in float64, one row and one column at a time"
    a, b = (np.float64(x)/np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (a, b))
    s = np.exp(log_scale)*a @ b.T
    return sum(np.mean([np.log(np.exp(r - r[i]).sum()) for i, r in enumerate(x)]) for x in (s, s.T))

def test_schedule_matches_the_released_code_at_every_golden_step(lars):
    tables = [k for k in lars if k.startswith('sched_')]
    assert len(tables) == 3
    base = dict(VA=(.2, .0048), AT=(.2, .0048), ESC=(1., .024))
    for k in tables:
        name, bs, ep, wu, spe = re.fullmatch(r'sched_([A-Z]+)_bs(\d+)_ep(\d+)_wu(\d+)_spe(\d+)', k).groups()
        for step, *lr in lars[k]:
            f = lr_factor(int(step), int(spe), int(ep), int(wu), int(bs))
            np.testing.assert_allclose([f*b for b in base[name]], lr, rtol=0, atol=1e-12)

def lars_trajectory(lars, weight_decay, steps=20):
    "Values of the seven golden parameters after each step, under the golden gradients"
    params = nn.ParameterList([nn.Parameter(torch.tensor(lars[f'p{i}_init'])) for i in range(7)])
    opt = LARS(lars_groups(params, .2, .0048, weight_decay), lr=0)
    for step in range(steps):
        for g in opt.param_groups: g['lr'] = g['base_lr']*lr_factor(step, 4, 5, 2, 432)
        rates = [g['lr'] for g in opt.param_groups]
        np.testing.assert_allclose(rates, lars['lr_weight_bias'][step], rtol=0, atol=1e-12)
        for i, p in enumerate(params): p.grad = torch.tensor(lars[f'p{i}_grads'][step])
        opt.step()
        yield step, [p.detach().numpy().copy() for p in params]

@pytest.mark.parametrize('wd', ['1e-06', '0.01'])
def test_lars_follows_the_released_code_for_twenty_steps(lars, wd):
    for step, values in lars_trajectory(lars, float(wd)):
        for i, v in enumerate(values):
            theirs = lars[f'p{i}_traj_wd{wd}'][step]
            np.testing.assert_allclose(v, theirs, rtol=0, atol=1e-6, err_msg=f'p{i}, step {step}')

def test_first_step_moves_nothing_but_its_gradient_enters_the_momentum(lars):
    (_, first), (_, second) = lars_trajectory(lars, 1e-6, steps=2)
    for i, v in enumerate(first): assert np.array_equal(v, lars[f'p{i}_init'])
    lr = .0048*lr_factor(1, 4, 5, 2, 432)
    g = lars['p4_grads']
    np.testing.assert_allclose(second[4], first[4] - lr*(.9*g[0] + g[1]), atol=1e-7)

def test_parameter_without_gradient_is_moved_by_weight_decay_alone(lars):
    assert not lars['p2_grads'][:10].any() and np.linalg.norm(lars['p2_init']) > 0
    values = {step: v[2] for step, v in lars_trajectory(lars, .01, steps=3)}
    # the decay is all there is, so it is scaled up to eta times the parameter's length
    np.testing.assert_allclose(values[1], values[0]*(1 - .2*lr_factor(1, 4, 5, 2, 432)*.001*1.9), rtol=1e-5)

@pytest.mark.parametrize('tag,log_scale,tol', [('ce', np.log(1/.07), 1e-5), ('ce100', np.log(100), 1e-4)])
def test_info_nce_matches_the_released_code(contrastive, tag, log_scale, tol):
    z, loss_fn, v, a = contrastive, InfoNCE(log_scale), leaf(contrastive['v']), leaf(contrastive['a'])
    loss = loss_fn(v, a)
    loss.backward()
    assert abs(loss.item() - z[f'{tag}_loss']) < 1e-4
    np.testing.assert_allclose(v.grad, z[f'{tag}_grad_v'], rtol=0, atol=tol)
    np.testing.assert_allclose(a.grad, z[f'{tag}_grad_a'], rtol=0, atol=tol)
    np.testing.assert_allclose(loss_fn.logit_scale.grad, z[f'{tag}_grad_logit_scale'], rtol=0, atol=1e-4)

def test_info_nce_starts_at_the_released_scale(contrastive):
    assert abs(InfoNCE().logit_scale.item() - contrastive['logit_scale_init']) < 1e-6

def test_vat_loss_and_gradients_match_a_slow_float64_reference(contrastive):
    v, a, t = (contrastive[k] for k in 'vat')
    loss_fn, audio = ContrastiveLoss(['va', 'at']), leaf(a)
    with torch.no_grad(): loss_fn.pairs['at'].logit_scale.fill_(3.)
    loss = loss_fn(nn.Identity(), dict(audio=audio, image=torch.tensor(v), text=torch.tensor(t)))
    loss.backward()

    def reference(x, va=np.log(1/.07), at=3.): return numpy_info_nce(v, x, va) + numpy_info_nce(x, t, at)
    assert abs(loss.item() - reference(a)) < 1e-4
    h = 1e-5
    for pair, scale in (('va', np.log(1/.07)), ('at', 3.)):
        slope = (reference(a, **{pair: scale + h}) - reference(a, **{pair: scale - h}))/(2*h)
        assert abs(loss_fn.pairs[pair].logit_scale.grad.item() - slope) < 1e-4
    for i, j in np.ndindex(a.shape):
        e = np.zeros(a.shape)
        e[i, j] = h
        assert abs(audio.grad[i, j].item() - (reference(a + e) - reference(a - e))/(2*h)) < 1e-5

def test_groups_of_a_vit_split_by_dimensions():
    from open_clip.transformer import VisionTransformer
    def groups(**kw):
        with torch.device('meta'): vit, loss = VisionTransformer(mlp_ratio=4., **kw), InfoNCE()
        names = {id(p): n for n, p in nn.ModuleDict(dict(vit=vit, loss=loss)).named_parameters()}
        found = lars_groups(nn.ModuleList([vit, loss]), .2, .0048, 1e-6)
        return [{names[id(p)]: p for p in g['params']} for g in found]

    weight, bias = groups(image_size=64, patch_size=16, width=32, layers=2, heads=2, output_dim=16)
    matrices = {'vit.conv1.weight', 'vit.positional_embedding', 'vit.proj',
                'vit.transformer.resblocks.0.attn.in_proj_weight'}
    vectors = {'vit.class_embedding', 'loss.logit_scale', 'vit.ln_pre.weight', 'vit.ln_post.bias',
               'vit.transformer.resblocks.1.ln_1.weight'}
    assert matrices <= weight.keys() and vectors <= bias.keys()
    assert not weight.keys() & bias.keys()

    weight, bias = groups(image_size=224, patch_size=32, width=768, layers=12, heads=12, output_dim=512)
    count = lambda g: sum(p.numel() for p in g.values())
    longer = (306 - 50)*768     # the audio grid has 305 tokens, the image grid 49
    assert (count(weight) + count(bias) + longer, count(bias)) == (88_045_825, 123_649)
