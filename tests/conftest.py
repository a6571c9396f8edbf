"""Sums in the order in which the golden numbers were computed

A Fourier transform in float32 leaves noise in the weak bins of a loud frame, up to 2e-3 of a log-mel, and MKL rounds
otherwise on each kind of processor. Its compatible mode does not; the golden arrays are met to 1e-6 in it. MKL reads
the variable once, when it is first used; processes that a test starts run without it.
"""
import os

os.environ['MKL_CBWR'] = 'COMPATIBLE'

import torch  # noqa: E402  after the variable

torch.fft.rfft(torch.ones(8))
torch.ones(2, 2) @ torch.ones(2, 2)
del os.environ['MKL_CBWR']
