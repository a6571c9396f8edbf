"What sound and picture files may be: limits, headers that lie, long ones, odd rates, one's own"
import struct
import threading
import warnings
from pathlib import Path

import av
import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile as sf
import torch
import torchaudio
from PIL import Image

from vipant import preprocessing
from vipant.data.layouts import Coverage
from vipant.engine.config import profile
from vipant.frozen.features import Store, write_log_mels, write_store
from vipant.listen import Listener, each
from vipant.models.trainings import _recropped
from vipant.preprocessing import (
    clip_log_mel,
    file_log_mel,
    front_end,
    load_audio,
    load_crop,
    load_image,
    log_mel,
    padded_log_mel,
    resampled,
)
from vipant.studies.audioset_classification import Waves


def noise(n, channels=1, scale=.1):
    return np.random.default_rng(0).uniform(-scale, scale, (n, channels))


def written(path, x, rate=16000, **kw):
    sf.write(path, x, rate, **kw)
    return path


def refused(path, *parts):
    "The one line that `load_audio` and `file_log_mel` say of the file: with its name and the `parts`"
    for read in (load_audio, lambda p: file_log_mel(p, 100)):
        with pytest.raises(ValueError) as e: read(path)
        line = str(e.value)
        assert '\n' not in line and path.name in line and all(p in line for p in parts), line


@pytest.mark.parametrize('scale', [3, 14000, 1e20, 1e38])
def test_samples_on_another_scale_are_refused(tmp_path, scale):
    refused(written(tmp_path/'loud.wav', noise(4000, scale=scale), subtype='FLOAT'), '[-1, 1]')


def test_samples_a_little_over_one_are_taken(tmp_path):
    assert load_audio(written(tmp_path/'over.wav', noise(4000, scale=1.9), subtype='FLOAT'))[0].max() > 1.8


def test_log_mels_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match='not all finite'): log_mel(1e30*torch.randn(1, 4000), 16000)


@pytest.mark.parametrize('rate', [1, 999, 384001, 2**31 - 1])
def test_rates_that_no_sound_has_are_refused(tmp_path, rate):
    path = written(tmp_path/'rate.wav', noise(4000))
    b = bytearray(path.read_bytes())
    b[24:28] = struct.pack('<I', rate)
    path.write_bytes(b)
    refused(path, str(rate), '1000 to 384000')


@pytest.mark.parametrize('rate', [1000, 1010, 384000])
def test_rates_at_the_bounds_are_taken(tmp_path, rate):
    path = written(tmp_path/'rate.wav', noise(rate), rate)
    assert load_audio(path)[1] == rate
    for to in (0, 16000): assert file_log_mel(path, 100, resample=to)[0].isfinite().all()


@pytest.mark.parametrize('rate,n', [(16000, 320), (16000, 1), (44100, 1101)])
def test_less_than_a_window_is_refused_by_name(tmp_path, rate, n):
    refused(written(tmp_path/'short.wav', noise(n), rate), 'one window of 25 ms')


def test_what_resampling_leaves_too_short_is_refused_by_name(tmp_path):
    path = written(tmp_path/'short.wav', noise(25), 1010)       # 25 ms of 25.25 samples; 397 at 16 kHz
    with pytest.raises(ValueError, match='short.wav.*one window'): file_log_mel(path, 100, resample=16000)


@pytest.mark.parametrize('suffix', ['wav', 'aiff', 'au', 'w64', 'rf64', 'flac', 'caf'])
def test_a_file_that_is_cut_off_is_refused(tmp_path, suffix):
    path = written(tmp_path/f'cut.{suffix}', noise(16000, 2))
    assert len(load_audio(path)[0]) == 2
    path.write_bytes(path.read_bytes()[:8011])
    refused(path)


@pytest.mark.parametrize('name, subtype', [('a.ogg', 'VORBIS'), ('a.ogg', 'OPUS'), ('a.mp3', None)])
def test_a_cut_ogg_or_mp3_is_refused_wherever_it_was_cut(tmp_path, name, subtype):
    path = written(tmp_path/name, noise(48000, 2), 48000, subtype=subtype)
    data = path.read_bytes()
    assert load_audio(path)[0].shape == (2, 48000)
    for k in np.linspace(1, len(data) - 1, 23).astype(int):
        path.write_bytes(data[:k])
        refused(path)
    path.write_bytes(data + b'TAG'.ljust(128, b'\0'))      # what stands behind is no fault
    assert load_audio(path)[0].shape == (2, 48000)


def test_an_mp3_whose_header_says_nothing_is_taken_as_it_is(tmp_path):
    path = written(tmp_path/'a.mp3', noise(48000), 48000)
    data = path.read_bytes()
    path.write_bytes(data[:100].replace(b'Xing', b'none').replace(b'Info', b'none') + data[100:len(data)//2])
    assert 0 < load_audio(path)[0].shape[1] < 30000


@pytest.mark.parametrize('name, codec', [('a.mp3', 'libmp3lame'), ('a.opus', 'libopus')])
def test_whole_sounds_of_another_writer_are_taken(tmp_path, name, codec):
    with av.open(str(tmp_path/name), 'w') as out:
        stream = out.add_stream(codec, rate=48000, layout='mono')
        frame = av.AudioFrame.from_ndarray(noise(96000).T.astype(np.float32), format='fltp', layout='mono')
        frame.sample_rate = 48000
        for packet in [*stream.encode(frame), *stream.encode(None)]: out.mux(packet)
    assert load_audio(tmp_path/name)[0].shape[1] >= 96000


def test_a_cut_wav_says_how_much_is_there(tmp_path):
    path = written(tmp_path/'cut.wav', noise(16000))
    path.write_bytes(path.read_bytes()[:8011])
    refused(path, '32000 bytes', '(3983 samples)')


@pytest.mark.parametrize('whole', [0, 36, 0xFFFFFFFF, 0x7FFFF024])
@pytest.mark.parametrize('size', [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize('kw', [dict(), dict(subtype='PCM_24', format='WAVEX'), dict(subtype='FLOAT')])
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path, whole, size, kw):
    path = written(tmp_path/'pipe.wav', noise(16000, 2), **kw)
    expected, b = load_audio(path), bytearray(path.read_bytes())
    at = b.index(b'data') + 4
    if whole == 36: whole = at - 4      # as Python's own wave writes it
    b[4:8], b[at:at + 4] = struct.pack('<I', whole), struct.pack('<I', size)
    path.write_bytes(b)
    found = load_audio(path)
    assert torch.equal(found[0], expected[0]) and found[1] == expected[1]


def test_an_empty_wav_is_empty_also_with_chunks_behind(tmp_path):
    path = written(tmp_path/'none.wav', noise(0))
    refused(path, 'holds no sample')
    b = bytearray(path.read_bytes() + b'LIST\x04\0\0\0INFO')
    b[4:8] = struct.pack('<I', len(b) - 8)
    path.write_bytes(b)
    refused(path, 'holds no sample')


def test_a_flac_that_claims_petabytes_is_refused(tmp_path):
    path = written(tmp_path/'vast.flac', noise(16000))
    for low, rest in ((0x0F, b'\xff'*4), (0, bytes(4))):        # 2**36 - 1 samples; 0: not known
        b = bytearray(path.read_bytes())
        b[21] = b[21] & 0xF0 | low
        b[22:26] = rest
        (tmp_path/'lies.flac').write_bytes(b)
        refused(tmp_path/'lies.flac')


def test_places_where_no_file_is(tmp_path, monkeypatch):
    (tmp_path/'dir.wav').mkdir()
    refused(tmp_path/'dir.wav', 'folder')
    (tmp_path/'link.wav').symlink_to(tmp_path/'gone.wav')
    for name in ('link.wav', 'none.wav'):
        with pytest.raises(FileNotFoundError, match=name): load_audio(tmp_path/name)
    path = written(tmp_path/'locked.wav', noise(4000))
    def denied(*_): raise PermissionError(13, 'Permission denied', str(path))
    monkeypatch.setattr(preprocessing, 'open', denied, raising=False)
    refused(path, 'Permission denied')
    (tmp_path/'x.raw').write_bytes(bytes(4000))
    refused(tmp_path/'x.raw', 'no header')


def test_a_file_that_vanishes_is_one_unreadable_clip(tmp_path):
    def read(k):
        if k == 0: return load_image(tmp_path/'gone.jpg')
        if k == 1: raise OSError(5, 'Input/output error')
        return np.ones(3)
    write_store(tmp_path, list('abc'), read, (3,), Coverage('toy', 'train', listed=3, present=3), 1.)
    assert Store.open(tmp_path).ids == ['c']


def test_a_full_disk_is_not_an_unreadable_clip(tmp_path, monkeypatch):
    class Full(np.ndarray):
        def __setitem__(self, k, v): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('vipant.frozen.features._mapped', lambda *_: np.zeros((3, 3)).view(Full))
    with pytest.raises(OSError, match='No space'):
        write_store(tmp_path, list('abc'), lambda k: np.ones(3), (3,), Coverage('toy', 'train', 3, 3), 1.)


def test_bad_sounds_of_a_split_are_counted_by_name(tmp_path):
    cfg = profile('smoke', override='data.max_unreadable=0.9')
    out, audio = tmp_path/'out', tmp_path/'data'/'audio'
    for d in (out, audio, tmp_path/'data'/'meta'): d.mkdir(parents=True)
    names = ['good.wav', 'dir.wav', 'loud.wav', 'short.wav']
    written(audio/'good.wav', noise(16000))
    written(audio/'loud.wav', noise(16000, scale=1e20), subtype='FLOAT')
    written(audio/'short.wav', noise(320))
    (audio/'dir.wav').mkdir()
    rows = ''.join(f'{n},1,0,x\n' for n in names)
    (tmp_path/'data'/'meta'/'esc50.csv').write_text('filename,fold,target,category\n' + rows, encoding='utf-8')
    write_log_mels(out, cfg, tmp_path/'data', 'esc50', 'all', 100)
    assert Store.open(out).ids == ['good']
    written_down = (out/'coverage.json').read_text(encoding='utf-8')
    assert all(f'{n} ' in written_down for n in names[1:])


def test_training_names_the_file_that_it_cannot_read(tmp_path):
    cfg, path = profile('smoke'), written(tmp_path/'loud.wav', noise(16000, scale=14000), subtype='FLOAT')
    waves = Waves(cfg.fbank, [str(path)], np.ones((1, 2)), (0., 1.), [(0, -1, .5)])
    for read in (lambda: _recropped(cfg, (0., 1.), path, 100), lambda: waves[0]):
        with pytest.raises(ValueError, match='loud.wav'): read()


# Resampling

def tone(rate, seconds=1.):
    t = np.arange(int(rate*seconds))/rate
    return torch.tensor(sum(np.sin(2*np.pi*f*t + f) for f in (110, 1234, 3100))[None]/4, dtype=torch.float32)


@pytest.mark.parametrize('rate,to', [(44100, 16000), (48000, 16000), (22050, 16000), (8000, 16000), (16000, 8000),
                                     (11025, 44100), (96000, 16000)])
def test_usual_rates_are_torchaudios_and_the_other_way_agrees(monkeypatch, rate, to):
    x = torch.cat([tone(rate), .5*tone(rate).flip(1)])
    theirs = torchaudio.functional.resample(x, rate, to)
    assert torch.equal(resampled(x, rate, to), theirs)
    monkeypatch.setattr(preprocessing, 'TABLE', 0)
    found = resampled(x, rate, to)
    assert found.shape == theirs.shape
    assert (found - theirs).abs().max() < 1e-5


@pytest.mark.parametrize('rate', [22254, 44099, 11127, 15999, 16001, 192001])
def test_odd_rates_give_the_same_sound(rate):
    found, expected = resampled(tone(rate), rate, 16000), tone(16000)
    assert found.shape == expected.shape
    assert (found - expected)[:, 200:-200].abs().max() < 1e-2      # the filter's own ripple: torchaudio's is as large

def test_an_odd_rate_does_not_go_by_the_large_table(monkeypatch):
    def large(*_): raise AssertionError('torchaudio makes a table of a gigabyte')
    monkeypatch.setattr(torchaudio.functional, 'resample', large)
    assert resampled(tone(44099), 44099, 16000).isfinite().all()
    with pytest.raises(AssertionError): resampled(tone(44100), 44100, 16000)


# Long sounds

@pytest.mark.parametrize('place', ['all', 'begin', 'middle', 'end'])
@pytest.mark.parametrize('kw', [dict(), dict(resample=8000), dict(resample=16000), dict(mono=True)])
@pytest.mark.parametrize('train', [False, True])
def test_the_way_of_long_sounds_gives_the_same_crop(tmp_path, monkeypatch, place, kw, train):
    rate, x = 44100, noise(44100*6, 2)*np.linspace(.5, 1, 44100*6)[:, None]     # no two places are as loud
    at = dict(all=slice(None), begin=slice(0, 9000), middle=slice(rate*5//2, rate*7//2), end=slice(-9000, None))[place]
    x[at] *= 8 if place != 'all' else 1
    path = written(tmp_path/'long.wav', x, rate, subtype='FLOAT')
    found = []
    for long in (600, 2):
        monkeypatch.setattr(preprocessing, 'LONG', long)
        np.random.seed(3)
        found.append(load_crop(path, 100, train, **kw))
    (a, *rest), (b, *others) = found
    assert rest == others and a.shape == b.shape
    assert (a - b).abs().max() < 1e-4
    assert others[1] is True


def test_short_sounds_are_as_the_waveform_makes_them(tmp_path):
    path = written(tmp_path/'two.wav', noise(44100*3, 2), 44100)
    for kw in (dict(), dict(resample=16000)):
        for train in (False, True):
            np.random.seed(1)
            found, longer = file_log_mel(path, 100, train, **kw)
            np.random.seed(1)
            assert torch.equal(found, padded_log_mel(*load_audio(path), 100, train, **kw)) and longer


class Peak:
    "The most memory that the process takes while the block runs, above what it had, in MB"
    def __enter__(self):
        self.before, self.most, self.over = psutil.Process().memory_info().rss, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.over.wait(.005): self.most = max(self.most, psutil.Process().memory_info().rss - self.before)

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def test_an_hour_of_stereo_costs_little(tmp_path):
    rate, x = 44100, noise(44100*12, 2)
    ten, hour = written(tmp_path/'ten.wav', x, rate), written(tmp_path/'hour.wav', x, rate)
    size = 3600*rate*4
    with open(hour, 'r+b') as f:        # the rest is a hole in the file: silence
        f.truncate(44 + size)
        for at, n in ((4, 36 + size), (40, size)):
            f.seek(at)
            f.write(struct.pack('<I', n))
    def read(path):
        x, longer = file_log_mel(path, 1000, resample=16000)
        assert longer and x.isfinite().all() and x.std() > 1
    read(ten)       # what the first call loads is not the hour's
    with Peak() as peak: read(hour)
    assert peak.most < 200*2**20


def test_a_long_sound_that_lies_or_is_damaged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocessing, 'LONG', 1)
    x = noise(160000)
    x[150000] = np.nan
    refused(written(tmp_path/'nan.wav', x, subtype='FLOAT'), 'not finite')
    path = written(tmp_path/'cut.wav', noise(160000))
    path.write_bytes(path.read_bytes()[:200000])
    refused(path, 'cut off')


# Pictures

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_pictures_of_all_modes_come_in_rgb(tmp_path, mode):
    image = PICTURE.convert(mode)
    image.save(path := tmp_path/('x.tiff' if mode == 'CMYK' else 'x.png'))
    found = load_image(path)
    assert found.mode == 'RGB' and found.tobytes() == image.convert('RGB').tobytes()


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    image = PICTURE.convert('P')
    image.save(tmp_path/'p.png', transparency=3)
    assert load_image(tmp_path/'p.png').tobytes() == image.convert('RGB').tobytes()


def test_sixteen_bit_greys_are_not_white(tmp_path):
    grey = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path/'g.png')
    assert (np.asarray(load_image(tmp_path/'g.png')) == (grey >> 8)[..., None]).all()


@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_photo_stands_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(tmp_path/'x.png', exif=exif)
    found = np.asarray(load_image(tmp_path/'x.png'))
    x = np.asarray(PICTURE)
    turned = {1: x, 2: x[:, ::-1], 3: x[::-1, ::-1], 4: x[::-1], 5: x.swapaxes(0, 1), 6: x.swapaxes(0, 1)[:, ::-1],
              7: x[::-1, ::-1].swapaxes(0, 1), 8: x.swapaxes(0, 1)[::-1]}[orientation]
    assert np.array_equal(found, turned)


def test_pictures_that_are_none(tmp_path):
    PICTURE.save(tmp_path/'x.bmp')
    head = bytearray((tmp_path/'x.bmp').read_bytes()[:54])
    for name, side in (('bomb.bmp', 60000), ('large.bmp', 10000)):
        head[18:26] = struct.pack('<ii', side, side)
        (tmp_path/name).write_bytes(head)
    PICTURE.save(tmp_path/'x.jpg')
    (tmp_path/'cut.jpg').write_bytes((tmp_path/'x.jpg').read_bytes()[:1200])
    (tmp_path/'text.jpg').write_text('no picture', encoding='utf-8')
    (tmp_path/'dir.jpg').mkdir()
    for name in ('bomb.bmp', 'large.bmp', 'cut.jpg', 'text.jpg', 'dir.jpg'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with pytest.raises(ValueError, match=name): load_image(tmp_path/name)
    (tmp_path/'link.jpg').symlink_to(tmp_path/'gone.jpg')
    with pytest.raises(FileNotFoundError, match='link.jpg'): load_image(tmp_path/'link.jpg')


def test_the_towers_see_the_same_bits(tmp_path):
    from open_clip import image_transform
    transform = image_transform(32, is_train=False)
    for mode in ('L', 'RGB'):
        image = PICTURE.convert(mode)
        image.save(tmp_path/'x.png')
        assert torch.equal(transform(load_image(tmp_path/'x.png')), transform(image))


# One's own sounds

class Towers:
    "Texts are embedded by their length"
    def __init__(self, context):
        from open_clip import get_tokenizer
        self.tokenizer = get_tokenizer('ViT-B-32', context_length=context)

    def texts(self, texts): return torch.tensor([[1., len(t)] for t in texts])


@pytest.fixture
def listener():
    own = Listener.__new__(Listener)
    own.front = front_end(profile('smoke').fbank) | dict(n_frames=100, resample=16000, mono=True)
    own.norms, own.towers = (0., 1.), Towers(24)
    own.encoder = lambda x: torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)
    return own


@pytest.fixture
def two(tmp_path):
    "Two files of one name in two folders, and a third sound"
    for i, name in enumerate(('a/x.wav', 'b/x.wav', 'b/y.wav')):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        written(tmp_path/name, noise(16000, scale=.1*(i + 1)))
    return tmp_path


def test_paths_come_as_they_come(listener, two):
    found = sorted(two.glob('*/*.wav'))
    expected = listener.sounds(found)
    table = pd.Series([*found, two/'none.wav'], index=[5, 6, 7, 8])
    for given in (iter(found), map(str, found), set(found), frozenset(map(str, found)), tuple(found),
                  table[table.map(Path.is_file)], np.array(list(map(str, found)))):
        assert torch.equal(listener.sounds(given), expected)
    for one in (found[0], str(found[0])): assert torch.equal(listener.sounds(one), expected[:1])
    assert listener.name(two.glob('*/*.wav'), 'dog').shape == (3, 1)


def test_files_of_one_name_are_told_apart(listener, two):
    paths = [str(p) for p in sorted(two.glob('*/*.wav'))]
    assert list(listener.name(paths, ['dog', 'cat']).index) == paths
    found = listener.search('a dog', iter(paths))
    assert sorted(found.sound) == paths and list(listener.name(paths[0], 'dog').columns) == ['dog']


@pytest.mark.parametrize('given,says', [([], 'at least one'), (set(), 'at least one'), (None, 'None'), (3, 'expected'),
                                        (b'x', 'expected'), (['x', 4], '2 of 2'), ([float('nan')], '1 of 1')])
def test_what_is_no_path_is_refused(listener, given, says):
    with pytest.raises(ValueError, match=says): listener.sounds(given)
    with pytest.raises(ValueError, match=says): listener.name('x.wav', given)
    with pytest.raises(ValueError, match=says): each(given, 'sound')


@pytest.mark.parametrize('context', [24, 77])
def test_a_sentence_over_the_context_is_refused_with_the_number(listener, two, context):
    listener.towers = Towers(context)
    fits = 'dog '*(context - 2)
    assert listener.texts(fits).shape == (1, 2)
    for ask in (lambda: listener.texts([fits + 'dog']), lambda: listener.search(fits + 'dog', two/'a/x.wav')):
        with pytest.raises(ValueError, match=f'{context + 1} tokens.* {context}'): ask()
    with pytest.raises(ValueError, match='empty'): listener.texts([' '])


def test_sound_in_the_second_channel_is_heard_in_ones_own(listener, tmp_path):
    x = noise(16000)
    left_silent = written(tmp_path/'left_silent.wav', np.concatenate([0*x, x], 1))
    half = written(tmp_path/'half.wav', x/2, subtype='FLOAT')
    assert torch.allclose(listener.sounds(left_silent), listener.sounds(half), atol=.1)
    waveform, rate = load_audio(left_silent)        # the paper's way: the first channel
    assert clip_log_mel(waveform - waveform.mean(), rate, 100).std() < 1 < file_log_mel(half, 100)[0].std()


def test_a_listener_takes_the_mini_world_as_before(listener, two):
    found = load_audio(two/'a/x.wav')
    x = padded_log_mel(*found, **{k: v for k, v in listener.front.items() if k != 'mono'})
    assert torch.equal(listener.sounds(two/'a/x.wav'), listener.encoder(x.half().float()[None, None]))
