"""Two processes on parts of a batch do what one does with the whole"""
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn

from vipant.engine.config import profile
from vipant.frozen.features import Store
from vipant.models import trainings
from vipant.studies import audioset_classification
from vipant.training import LARS, ContrastiveLoss, fit, lars_groups

ROWS = [8, 5, 1]    # of the batches; the last leaves rank 1 without any

def train(out, rank=0, world=1):
    "Three small batches, two epochs, on this process's rows"
    torch.manual_seed(rank)     # different at the start: rank 0's weights must win
    encoder, loss = nn.Linear(6, 4), ContrastiveLoss()
    optim = LARS(lars_groups(nn.ModuleList([encoder, loss]), 20., .5), lr=0)
    def batches(epoch):
        for n in ROWS:
            x = torch.randn(n, 10, generator=torch.Generator().manual_seed(10*epoch + n))[rank::world]
            yield dict(audio=x[:, :6], image=x[:, 6:])
    return fit(encoder, loss, batches, optim, out, epochs=2, steps_per_epoch=3, factor=lambda step: 1., seed=0,
               save=lambda m, path: save_file(m.state_dict(), path), progress=False)

def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
    train(Path(folder)/'two', rank, 2)
    dist.destroy_process_group()

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    d = tmp_path_factory.mktemp('distributed')
    train(d/'one')
    mp.spawn(worker, args=(str(d),), nprocs=2)
    return d

def test_two_processes_reach_the_weights_of_one(folder):
    for e in (1, 2):
        one, two = (load_file(folder/run/f'epoch-{e:02d}.safetensors') for run in ('one', 'two'))
        for k in one: torch.testing.assert_close(two[k], one[k], rtol=0, atol=1e-5)

def log(run):
    "Names and values (steps, 6) of the first columns of a training's log"
    head, *rows = [line.split(',')[:6] for line in (run/'log.csv').read_text(encoding='utf-8').splitlines()]
    return head, torch.tensor([[float(x) for x in row] for row in rows])

def test_rank_zero_writes_the_same_log_once(folder):
    head, one = log(folder/'one')
    assert log(folder/'two')[0] == head and len(one) == 6
    torch.testing.assert_close(log(folder/'two')[1], one, rtol=1e-4, atol=1e-5)

NORM = (-5., 5.)

def sampler(cfg, folder):
    "Three clips of a store, two a batch"
    sounds = Store(['a', 'b', 'c'], np.zeros((3, cfg.fbank.n_frames, cfg.fbank.n_mels), np.float16))
    return trainings.Sampler(cfg, cfg.at, sounds, NORM, [0, 1, 2], dict(label=lambda k, rng: k))

def wave_batches(cfg, folder):
    "Three clips on disk, two a batch"
    paths = [folder/f'{k}.wav' for k in range(3)]
    for k, path in enumerate(paths): soundfile.write(path, np.sin(np.arange(8000)/(k + 2)), 16000)
    return audioset_classification.WaveBatches(cfg, cfg.at.batch_size, paths, np.eye(3), NORM, weighted=False)

@pytest.mark.parametrize('made', [sampler, wave_batches])
def test_a_process_without_rows_in_the_last_batch_gets_an_empty_one(made, tmp_path, monkeypatch):
    batches = made(profile('smoke', 0, 'at.batch_size=2'), tmp_path)
    for module in (trainings, audioset_classification): monkeypatch.setattr(module, 'rank_world', lambda: (1, 2))
    full, last = batches(1)
    shape = full['audio'].shape[1:]
    assert (len(full['audio']), len(full['label'])) == (1, 1)
    assert (len(last['audio']), len(last['label'])) == (0, 0) and last['audio'].shape[1:] == shape
    assert len(batches) == 2
