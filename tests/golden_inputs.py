"""What the golden arrays were computed from, made anew from its formulas

Sounds (16 kHz, one channel, 16 bits) and a small random image tower; and the arrays themselves.
"""
from pathlib import Path

import numpy as np
import torch

SAMPLE_RATE = 16000

def golden(name) -> dict:
    "The arrays of golden/NAME.npz"
    path = Path(__file__).parent/'golden'/f'{name}.npz'
    with np.load(path, allow_pickle=False) as f: return {k: f[k] for k in f.files}

def _time(seconds): return np.arange(seconds*SAMPLE_RATE)/SAMPLE_RATE

def _chirp(f0, f1, seconds):
    t = _time(seconds)
    return np.sin(2*np.pi*(f0*t + (f1 - f0)/(2*seconds)*t**2))

def _noise(seed, seconds): return np.random.RandomState(seed).randn(seconds*SAMPLE_RATE)

FORMULAS = dict(
    w10=lambda: .3*_chirp(100, 7000, 10) + .05*_noise(10, 10) + .02,
    w4=lambda: .2*np.sin(2*np.pi*440*_time(4))*np.exp(-_time(4)) + .03*_noise(4, 4) - .01,
    w12=lambda: .3*_chirp(50, 6000, 12)*(1 + .5*np.sin(2*np.pi*.25*_time(12))) + .04*_noise(12, 12))

def pcm(name) -> np.ndarray:
    "The int16 samples (1, N) of the sound `name`"
    return np.clip(np.round(32767*FORMULAS[name]()), -32768, 32767).astype(np.int16)[None]

def wave(name) -> torch.Tensor:
    "The waveform (1, N) in [-1, 1] of the sound `name`"
    return torch.from_numpy(pcm(name).astype(np.float32)/32768)

def tiny_visual() -> dict:
    "name -> array (float32) of the small random image tower: width 128, 2 layers, patch 32, 224 px, output 64"
    rng, d, w = np.random.RandomState(7), 128, {}
    def draw(*shape, by): return (by*rng.randn(*shape)).astype(np.float32)
    def norm(name):
        w[f'{name}.weight'] = 1 + draw(d, by=.1)
        w[f'{name}.bias'] = draw(d, by=.1)
    def linear(name, out, n, dot='.'):
        w[f'{name}{dot}weight'] = draw(out, n, by=n**-.5)
        w[f'{name}{dot}bias'] = draw(out, by=.05)
    w['class_embedding'] = draw(d, by=.2)
    w['positional_embedding'] = draw(50, d, by=.2)
    w['proj'] = draw(d, 64, by=d**-.5)
    w['conv1.weight'] = draw(d, 3, 32, 32, by=.02)
    norm('ln_pre')
    for k in range(2):
        block = f'transformer.resblocks.{k}'
        linear(f'{block}.attn.in_proj', 3*d, d, '_')
        linear(f'{block}.attn.out_proj', d, d)
        norm(f'{block}.ln_1')
        linear(f'{block}.mlp.c_fc', 4*d, d)
        linear(f'{block}.mlp.c_proj', d, 4*d)
        norm(f'{block}.ln_2')
    norm('ln_post')
    return w
