"""The sounds that the golden arrays were computed from, made anew from their formulas: 16 kHz, one channel, 16 bits"""
import numpy as np
import torch

SAMPLE_RATE = 16000

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
