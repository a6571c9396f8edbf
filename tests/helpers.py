"Small whole inputs, made in a few lines, that several tests read, spoil or damage"
import json
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file

from vipant.encoder import AudioEncoder

# Lists, videos, copies on the hub

def put(path, *lines, encoding='utf-8'):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(''.join(f'{line}\n' for line in lines).encode(encoding))
    return path

def paint(path, times=range(0, 3000, 125), sound_from=0):
    "An mp4 whose frame k, shown at `times[k]` ms, is white in its upper left quarter and of grey level 8k elsewhere"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', format='mp4') as out:
        video, ms = out.add_stream('mpeg4', rate=8, width=64, height=48, pix_fmt='yuv420p'), Fraction(1, 1000)
        video.codec_context.time_base, video.bit_rate = ms, 4_000_000
        audio = out.add_stream('aac', rate=16000, layout='mono')
        for k, t in enumerate(times):
            picture = np.full((48, 64, 3), 8*k, np.uint8)
            picture[:24, :32] = 255
            frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
            frame.pts, frame.time_base = t, ms
            out.mux(video.encode(frame))
        tone = np.sin(np.arange(48000)/9).astype(np.float32)[None]
        block = av.AudioFrame.from_ndarray(tone, format='fltp', layout='mono')
        block.sample_rate, block.pts, block.time_base = 16000, sound_from, Fraction(1, 16000)
        out.mux(audio.encode(block))
        for stream in (video, audio): out.mux(stream.encode(None))
    return path

def parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path

ROW = dict(filename='1-1-A-0.wav', fold=1, target=0, category='dog', esc10=True, src_file=1, take='A',
           audio=dict(bytes=b'x'*500, path=None))

# Weights

CFG = dict(model=dict(audio=dict(resolution=[32, 32], pre_encoder=dict(stride=[16, 16]))))
SCALE = dict(logit_scale=torch.tensor(2.66))
SIZES = dict(n_frames=32, n_mels=32, stride=(16, 16), width=64, layers=1, heads=1, patch=16, output_dim=8)
THEIRS = {'conv1.': 'pre_encoder.conv1.', 'ln_pre.': 'pre_encoder.ln.', 'ln_post.': 'post_encoder.ln.',
          'proj': 'post_encoder.proj', 'class_embedding': 'misc.class_embedding',
          'positional_embedding': 'misc.positional_embedding', 'transformer.': 'encoder.'}

def tiny() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(**SIZES).eval()

def their_tensors() -> OrderedDict:
    "Tensors of a tiny encoder, under the names of the released code"
    def name(k):
        old = next(o for o in THEIRS if k.startswith(o))
        return THEIRS[old] + k.removeprefix(old)
    return OrderedDict((name(k), v.detach().clone()) for k, v in tiny().state_dict().items())

def written(path, audio=None, loss=SCALE, cfg=CFG) -> Path:
    "A released checkpoint"
    torch.save(dict(cfg=cfg, model=(audio or their_tensors(), loss)), path)
    return path

def our_file(path, sizes=SIZES, **changes) -> Path:
    weights = {k: v.detach().clone() for k, v in tiny().state_dict().items()} | changes
    save_file({k: v for k, v in weights.items() if v is not None}, path,
              {'vipant.encoder': sizes if isinstance(sizes, str) else json.dumps(sizes)})
    return path
