"""Lists and media as they are found: columns, folds and names otherwise than written down, and files that are broken"""
import http.server
import json
import os
import struct
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from helpers import ROW, paint, parquet, put
from vipant.data import clip_tables
from vipant.data.clip_tables import FolderIndex, find_audio, present
from vipant.data.layouts import (
    audioset_labels,
    clips,
    label_map,
    read_audiocaps,
    read_coco_captions,
    read_corpus,
    read_esc50,
    read_us8k,
    read_web,
)
from vipant.data.released_files import download, read_cap, read_map, read_pairs
from vipant.data.videos import mp4s_to_clips, spaced_frames, video_to_clip

ROOT = Path(__file__).resolve().parents[1]

def put_sound(path, format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    format = format or ('AIFF' if path.suffix == '.aif' else None)
    sf.write(path, np.sin(np.arange(8000)/9), 16000, format=format)

def said(kind, read, *args, **kwargs) -> str:
    "The message of the error of that kind, one line, of `read`"
    with pytest.raises(kind) as e: read(*args, **kwargs)
    assert e.type is kind and '\n' not in str(e.value)
    return str(e.value)

# UrbanSound8K's and ESC-50's lists
US8K = 'slice_file_name,fsID,start,end,salience,fold,classID,class'
ROWS = ('100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark',
        '100263-2-0-117.wav,100263,58.5,62.5,1,5,2,children_playing',
        '100648-1-0-0.wav,100648,4.823402,5.471927,2,10,1,car_horn')

@pytest.mark.parametrize('column', ('class', 'class_name'))
def test_us8k_names_its_classes_in_either_column(tmp_path, column):
    put(tmp_path/'metadata/UrbanSound8K.csv', US8K.removesuffix('class') + column, *ROWS)
    ds = clips(tmp_path, 'us8k')
    assert ds['labels'] == [['dog_bark'], ['children_playing'], ['car_horn']] and ds['fold'] == [5, 5, 10]
    assert list(label_map(tmp_path, 'us8k')) == ['car_horn', 'children_playing', 'dog_bark']

def test_us8k_without_a_column_of_classes_says_both_names(tmp_path):
    put(tmp_path/'metadata/UrbanSound8K.csv', US8K.removesuffix('class') + 'label', *ROWS)
    why = 'UrbanSound8K.csv has no column class or class_name: found slice_file_name'
    for read in (read_us8k, lambda root: label_map(root, 'us8k')): assert why in said(ValueError, read, tmp_path)

def test_us8k_as_released():
    if not os.environ.get('VIPANT_DATA'): pytest.skip('VIPANT_DATA is not set')
    root = Path(os.environ['VIPANT_DATA'])
    if not (root/'urbansound8k/metadata/UrbanSound8K.csv').is_file(): pytest.skip('UrbanSound8K is not there')
    ds = clips(root, 'us8k')
    assert len(ds) == 8732 and ds[0]['labels'] == ['dog_bark'] and len(label_map(root, 'us8k')) == 10

def test_a_fold_with_a_point_is_a_fold(tmp_path):
    put(tmp_path/'metadata/UrbanSound8K.csv', US8K, ROWS[0].replace(',5,3,', ',5.0,3.0,'))
    put_sound(tmp_path/'audio/fold5/100032-3-0-0.wav')
    assert present(read_us8k(tmp_path))[0]['fold'] == [5] and label_map(tmp_path, 'us8k') == {'dog_bark': 'dog bark'}

@pytest.mark.parametrize('fold', ('0', '11', '9'*20, '9'*5000, '-1', '5.5', 'nan', 'five', ''))
def test_a_fold_that_there_is_not_is_refused_with_its_place(tmp_path, fold):
    put(tmp_path/'metadata/UrbanSound8K.csv', US8K, ROWS[1], ROWS[0].replace(',5,', f',{fold},'))
    line = said(ValueError, read_us8k, tmp_path)
    assert line.startswith(f'{tmp_path}/metadata/UrbanSound8K.csv, row 3: fold ') and len(line) < 400

def test_esc50_has_five_folds(tmp_path):
    put(tmp_path/'meta/esc50.csv', 'filename,fold,target,category', 'a.wav,6,0,dog')
    assert "row 2: fold '6' is not one of 1 to 5" in said(ValueError, read_esc50, tmp_path)

def test_a_column_that_is_there_twice_is_refused(tmp_path):
    put(tmp_path/'meta/esc50.csv', 'filename,fold,target,category,fold', 'a.wav,1,0,dog,2')
    assert 'has 2 columns fold' in said(ValueError, read_esc50, tmp_path)

@pytest.mark.parametrize('row, where', [
    ('a.wav,1,0,7', 'category'), ('a.wav,1,0,nan', 'category'), ('a.wav,1,0,', 'category'), ('a.wav,dog,0,1', 'fold'),
    ('a.wav,1,dog,cat', 'target'), ('../a.wav,1,0,dog', 'filename'), (f'{"a"*300}.wav,1,0,dog', 'filename')])
def test_a_wrong_cell_says_file_row_and_column(tmp_path, row, where):
    put(tmp_path/'meta/esc50.csv', 'filename,fold,target,category', row)
    read = (lambda root: label_map(root, 'esc50')) if where == 'target' else read_esc50
    line = said(ValueError, read, tmp_path)
    assert 'esc50.csv, row 2: ' in line and where in line

@pytest.mark.parametrize('row, where', [
    ('1,a,0,12', 'caption'), ('1,a,0, ', 'caption'), ('1,a,soon,A dog', 'start_time'),
    ('1,a,1e300,A dog', 'start_time'), ('1,,0,A dog', 'youtube_id')])
def test_a_wrong_cell_of_audiocaps_says_file_row_and_column(tmp_path, row, where):
    put(tmp_path/'audiocaps/val.csv', 'audiocap_id,youtube_id,start_time,caption', row)
    line = said(ValueError, read_audiocaps, tmp_path, 'val')
    assert line.startswith(f'{tmp_path}/audiocaps/val.csv, row 2: ') and where in line

@pytest.mark.parametrize('row', ('dog,/m/dog,Dog', '0,5,Dog', '0,/m/dog,5', '1,/m/cat,Dog'))
def test_a_list_of_classes_with_numbers_for_words_is_refused(tmp_path, row):
    put(tmp_path/'audioset/class_labels_indices.csv', 'index,mid,display_name', '0,/m/cat,Cat', row)
    assert 'class_labels_indices.csv, row 3: ' in said(ValueError, audioset_labels, tmp_path, 'index')

# Json and text
@pytest.mark.parametrize('caption', (5, ['A dog'], None, {}, '', True))
def test_a_coco_caption_that_is_no_text_is_refused_with_its_place(tmp_path, caption):
    notes = [dict(id=1, caption='A cat'), dict(id=2, caption=caption)]
    put(tmp_path/'coco/annotations/captions_val2017.json', json.dumps(dict(annotations=notes)))
    assert 'captions_val2017.json, annotation 1: ' in said(ValueError, read_coco_captions, tmp_path)

@pytest.mark.parametrize('entry', (
    dict(id='/m/dog', name=5), dict(id=7, name='Dog'), dict(id='/m/dog', name=['Dog']), dict(id='/m/cat', name='Dog'),
    3))
def test_an_ontology_with_numbers_for_names_is_refused_with_its_place(tmp_path, entry):
    put(tmp_path/'audioset/ontology.json', json.dumps([dict(id='/m/cat', name='Cat'), entry]))
    assert 'ontology.json, entry 1: ' in said(ValueError, audioset_labels, tmp_path)

def a_list(path): return list(read_cap(path))

JSON = {'audioset/ontology.json': audioset_labels, 'coco/annotations/captions_train2017.json': read_coco_captions}
OTHER = {'pairs.json': read_pairs, 'map.csv': read_map, 'cap.csv': a_list}

@pytest.mark.parametrize('name', (*JSON, *OTHER))
@pytest.mark.parametrize('content', (
    b'['*100_000, b'{"a":'*100_000, b'', b'{', b'7', b'"text"', b'[[1, 2]]', b'{"annotations": 5}', b'1'*10_000,
    '{"a":\n"Café"}'.encode('latin-1'), '[1]'.encode('utf-16'), b'\0'*64), ids=lambda c: repr(c[:9]))
def test_json_of_any_other_kind_is_one_line_with_the_file(tmp_path, name, content):
    path = tmp_path/name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if name in ('map.csv', 'cap.csv') and not content:      # no lines: no captions
        assert not OTHER[name](path)
        return
    line = said(ValueError, JSON[name] if name in JSON else OTHER[name], tmp_path if name in JSON else path)
    assert line.startswith(str(path)) and len(line) < 500

def test_text_that_is_not_utf8_says_file_and_row(tmp_path):
    corpus = put(tmp_path/'text/corpus.txt', 'A dog barks.', '', 'A café', encoding='latin-1')
    assert said(ValueError, read_corpus, tmp_path) == f'{corpus}, row 3: no utf-8 text'
    head = 'audiocap_id,youtube_id,start_time,caption'
    path = put(tmp_path/'audiocaps/val.csv', head, '1,a,0,A dog', '2,b,0,A café', encoding='latin-1')
    assert said(ValueError, read_audiocaps, tmp_path, 'val') == f'{path}, row 3: no utf-8 text'
    path = put(tmp_path/'web/captions.csv', 'filename,caption,split', 'a.jpg,a café,train', encoding='utf-16')
    assert said(ValueError, read_web, tmp_path, 'train') == f'{path}, row 1: no utf-8 text'

def test_an_empty_corpus_is_said(tmp_path):
    put(tmp_path/'text/corpus.txt', '', '')
    assert 'corpus.txt is empty' in said(ValueError, read_corpus, tmp_path)

def test_lists_are_read_as_utf8_whatever_the_locale_says(tmp_path):
    put(tmp_path/'list.csv', 'caption', 'Un café')
    put(tmp_path/'text/corpus.txt', 'Un café')
    code = (f'from vipant.data.layouts import csv_rows, read_corpus; root = {str(tmp_path)!r}; '
            'assert read_corpus(root) == ["Un caf\\u00e9"]; '
            'assert list(csv_rows(f"{root}/list.csv", ["caption"])) == [(2, dict(caption="Un caf\\u00e9"))]')
    env = dict(os.environ, LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
    p = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, stdin=subprocess.DEVNULL)
    assert p.returncode == 0, p.stderr.decode(errors='replace')

# Names
ID = '00W1lcxW-WU_0.000'
NAMES = ('00W1lcxW-WU_0.000.WAV', '00W1lcxW-WU_0.000.aiff', '00W1lcxW-WU_0.000.aif', '00W1lcxW-WU_0_10000.flac',
         '00W1lcxW-WU_0_10.wav', '00W1lcxW-WU_0.000_10.000.wav', 'Y00W1lcxW-WU_0.000_10.000.wav', '00W1lcxW-WU_0.wav',
         'Y00W1lcxW-WU.wav', '00W1lcxW-WU.wav', '00W1lcxW-WU.FLAC')

def segments(root, *rows): put(root/'audioset/eval_segments.csv', *(f'{row}, "/m/dog"' for row in rows))

@pytest.mark.parametrize('name', NAMES)
def test_a_clip_under_the_name_of_another_downloader_is_read(tmp_path, name):
    segments(tmp_path, '00W1lcxW-WU, 0.000, 10.000', '_ther-clip_, 30.000, 40.000')
    put_sound(tmp_path/'audioset/audio'/name)
    ds, coverage = present(clips(tmp_path, 'audioset', 'eval'))
    assert ds['audio'] == [f'{tmp_path}/audioset/audio/{name}'] and coverage.listed == 2
    assert len(sf.read(ds[0]['audio'])[0]) == 8000

@pytest.mark.parametrize('name', (f'{ID}_{{i}}.jpg', f'Y{ID}_{{i}}.jpg', '00W1lcxW-WU_0_{i}.JPG',
                                  'Y00W1lcxW-WU_0_{i}.jpeg', f'{ID}_{{i}}.png'))
def test_frames_under_the_names_of_another_downloader_are_read(tmp_path, name):
    segments(tmp_path, '00W1lcxW-WU, 0.000, 10.000', '_ther-clip_, 30.000, 40.000')
    paths = [f'{tmp_path}/audioset/frames/{name.format(i=i)}' for i in range(4)]
    for path in paths: put(Path(path))
    assert clips(tmp_path, 'audioset', 'eval')['frames'] == [paths, []]

def test_the_start_of_a_clip_in_whole_seconds_or_ms(tmp_path):
    for name in ('a-23456789__30.wav', 'b-23456789__30000_40000.flac', 'c-23456789__40.wav'): (tmp_path/name).touch()
    found = [os.path.basename(find_audio(tmp_path, f'{k}-23456789__30.000')) for k in 'abc']
    assert found == ['a-23456789__30.wav', 'b-23456789__30000_40000.flac', '']

def test_the_official_name_comes_first_in_the_old_order_of_suffixes(tmp_path):
    for name in (f'{ID}.opus', f'{ID}.WAV', f'{ID}.aiff', *NAMES[3:]): (tmp_path/name).touch()
    assert find_audio(tmp_path, ID) == f'{tmp_path}/{ID}.opus'
    assert clip_tables.AUDIO_SUFFIXES[:5] == ('.wav', '.flac', '.ogg', '.mp3', '.opus')

def test_a_sound_without_a_start_stands_for_one_clip_only(tmp_path):
    segments(tmp_path, '00W1lcxW-WU, 0.000, 10.000', '00W1lcxW-WU, 30.000, 40.000')
    put_sound(tmp_path/'audioset/audio/00W1lcxW-WU.wav')
    line = said(ValueError, clips, tmp_path, 'audioset', 'eval')
    assert '00W1lcxW-WU.wav may be 00W1lcxW-WU_0.000 or 00W1lcxW-WU_30.000' in line

def test_the_folder_is_listed_once(tmp_path, monkeypatch):
    for k in range(50): (tmp_path/f'Yvideo{k:06d}_{k}_{k + 10}.WAV').touch()
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, 'scandir', lambda folder: listed.append(folder) or scandir(folder))
    index = FolderIndex(tmp_path)
    assert all(index.clip(f'video{k:06d}_{k}.000') for k in range(50)) and len(listed) == 1

def test_none_found_names_a_file_expected_and_one_that_is_there(tmp_path):
    segments(tmp_path, '00W1lcxW-WU, 0.000, 10.000')
    assert 'expected files like 00W1lcxW-WU_0.000.wav, there is no file' in \
        said(FileNotFoundError, lambda: present(clips(tmp_path, 'audioset', 'eval')))
    put_sound(tmp_path/'audioset/audio/clip_1.wav')
    line = said(FileNotFoundError, lambda: present(clips(tmp_path, 'audioset', 'eval')))
    assert line.endswith(f'expected files like 00W1lcxW-WU_0.000.wav, there is {tmp_path}/audioset/audio/clip_1.wav')

def test_sounds_that_libsndfile_cannot_read_are_said(tmp_path):
    segments(tmp_path, '00W1lcxW-WU, 0.000, 10.000', '00W1lcxW-WV, 0.000, 10.000')
    put(tmp_path/f'audioset/audio/{ID}.m4a')
    line = said(ValueError, lambda: present(clips(tmp_path, 'audioset', 'eval')))
    assert f'{ID}.m4a: convert them, to .wav or .flac' in line
    put_sound(tmp_path/'audioset/audio/00W1lcxW-WV_0.000.wav')
    assert present(clips(tmp_path, 'audioset', 'eval'))[1].present == 2     # it is on disk, and will be unreadable

@pytest.mark.parametrize('on_disk, listed', (('NFD', 'NFC'), ('NFC', 'NFD'), ('NFD', 'NFD')))
def test_names_in_either_unicode_are_found(tmp_path, on_disk, listed):
    def name(form, suffix): return unicodedata.normalize(form, f'Café Ångström{suffix}')
    five = ','.join('abcde')
    head = 'file_name,' + ','.join(f'caption_{i}' for i in range(1, 6))
    put(tmp_path/'clotho/clotho_captions_evaluation.csv', head, f'{name(listed, ".wav")},{five}')
    put_sound(tmp_path/'clotho/evaluation'/name(on_disk, '.WAV'), 'WAV')
    put(tmp_path/'esc50/meta/esc50.csv', 'filename,fold,target,category', f'{name(listed, ".wav")},1,0,dog')
    put_sound(tmp_path/'esc50/audio'/name(on_disk, '.flac'))
    put(tmp_path/'web/captions.csv', 'filename,caption,split', f'{name(listed, ".jpg")},a dog,train')
    put(tmp_path/'web/images'/name(on_disk, '.jpg'))
    for dataset, split in (('clotho', 'evaluation'), ('esc50', 'all')):
        ds, _ = present(clips(tmp_path, dataset, split))
        assert Path(ds[0]['audio']).is_file() and ds[0]['id'] == name(listed, '')
    assert Path(read_web(tmp_path, 'train')[0]['image']).is_file()

def test_clothos_and_esc50s_names_are_not_taken_for_clips_of_a_video(tmp_path):
    put(tmp_path/'meta/esc50.csv', 'filename,fold,target,category', 'bark_2.000.wav,1,0,dog')
    put_sound(tmp_path/'audio/bark.wav')
    assert read_esc50(tmp_path)['audio'] == ['']

# Videos
def numbers(pictures) -> list: return [round(np.asarray(p)[-8:, -8:].mean()/8) for p in pictures]

def test_frames_of_a_variable_rate_are_those_on_show(tmp_path):
    at = [0, 50, 100, 150, 200, 1100, 2900, 3000]
    assert numbers(spaced_frames(paint(tmp_path/'a.mp4', at))) == [0, 4, 5, 7]        # at 0, 1, 2 s, and the last

@pytest.mark.parametrize('begin, sound_from', ((2000, 0), (2000, 16000), (0, 32000)))
def test_pictures_that_begin_late_are_spaced_from_their_own_beginning(tmp_path, begin, sound_from):
    video = paint(tmp_path/'a.mp4', [begin + t for t in range(0, 3000, 125)], sound_from)
    assert numbers(spaced_frames(video)) == [0, 8, 16, 23]

@pytest.mark.parametrize('matrix, shape, white', (
    ((1, 0, 0, 1), (48, 64), 'upper left'), ((0, 1, -1, 0), (64, 48), 'upper right'),
    ((-1, 0, 0, -1), (48, 64), 'lower right'), ((0, -1, 1, 0), (64, 48), 'lower left'),
    ((-1, 0, 0, 1), (48, 64), 'upper right'), ((1, 0, 0, -1), (48, 64), 'lower left'),
    ((0, 1, 1, 0), (64, 48), 'upper left'), ((0, -1, -1, 0), (64, 48), 'lower right')))
def test_a_phone_held_upright_films_upright(tmp_path, matrix, shape, white):
    "The matrix (a, b, c, d) of a track takes x to ax + cy and y to bx + dy, with y down"
    path = paint(tmp_path/'a.mp4')
    data, (a, b, c, d) = bytearray(path.read_bytes()), (v << 16 for v in matrix)
    struct.pack_into('>9i', data, data.index(b'tkhd') + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    picture = np.asarray(spaced_frames(path)[0]).mean(-1)
    h, w = picture.shape
    quarters = {'upper left': picture[:h//2, :w//2], 'upper right': picture[:h//2, w//2:],
                'lower left': picture[h//2:, :w//2], 'lower right': picture[h//2:, w//2:]}
    assert picture.shape == shape and max(quarters, key=lambda k: quarters[k].mean()) == white

def refused(path, out):
    line = said(ValueError, video_to_clip, path, out/'x.wav', [out/f'x_{i}.jpg' for i in range(4)])
    assert line.startswith(str(path)) and not [*out.glob('*'), *out.glob('.*')]
    return line

def test_a_video_that_was_cut_anywhere_is_one_line_and_no_file(tmp_path):
    data = paint(tmp_path/'a.mp4').read_bytes()
    index = data.index(b'moov') - 4
    fast = data[:data.index(b'mdat') - 4], data[index:], data[data.index(b'mdat') - 4:index]
    for k in (0, 1, 7, 100, 1000, len(data)//2, len(data) - 1):
        (tmp_path/'cut.mp4').write_bytes(data[:k])
        refused(tmp_path/'cut.mp4', tmp_path/'out')
    (tmp_path/'cut.mp4').write_bytes(b''.join(fast)[:-500])     # its index first, as it comes from the web
    assert 'it is cut off, 500 bytes are missing' in refused(tmp_path/'cut.mp4', tmp_path/'out')

def decoded(path, out) -> bool:
    "Is the video made a whole clip in the folder `out`? Else it is refused: in one line, and no file is left"
    try: video_to_clip(path, out/'x.wav', [out/f'x_{i}.jpg' for i in range(4)])
    except ValueError as e:
        assert str(e).startswith(str(path)) and '\n' not in str(e) and not [*out.glob('*')]
        return False
    assert len([*out.iterdir()]) == 5
    return True

@pytest.mark.parametrize('box, at, value', ((b'mp4v', 28, b'\xff'*4), (b'mp4v', 0, b'zzzz'), (b'mp4a', 0, b'zzzz')))
def test_a_video_with_a_lying_header_is_one_line_or_a_whole_clip(tmp_path, box, at, value):
    path = paint(tmp_path/'a.mp4')
    data = bytearray(path.read_bytes())
    where = data.index(box, data.index(b'stsd')) + at
    data[where:where + len(value)] = value
    path.write_bytes(data)
    decoded(path, tmp_path/'out')

def test_damaged_bytes_are_one_line_or_a_whole_clip(tmp_path):
    data, rng = paint(tmp_path/'a.mp4', range(0, 1000, 250)).read_bytes(), np.random.default_rng(0)
    found = set()
    for k in range(40):
        spoiled = bytearray(data)
        for at in rng.integers(data.index(b'moov'), len(data), 3): spoiled[at] = rng.integers(256)
        path = tmp_path/'spoiled.mp4'
        path.write_bytes(spoiled)
        found.add(decoded(path, tmp_path/f'out{k}'))
    assert found == {True, False}

def test_videos_in_capitals_are_videos_and_a_dangling_link_is_one_that_fails(tmp_path):
    paint(tmp_path/'audioset/video/00W1lcxW-WU_0.000.MP4')
    (tmp_path/'audioset/video/gone.mp4').symlink_to(tmp_path/'nowhere.mp4')
    coverage = mp4s_to_clips(tmp_path)
    assert (coverage.listed, coverage.readable) == (2, 1) and coverage.unreadable[0][0] == 'gone'
    assert len(list((tmp_path/'audioset/frames').iterdir())) == 4
    paint(tmp_path/'audioset/video/00W1lcxW-WU_0.000.mp4')
    assert 'are one clip' in said(ValueError, mp4s_to_clips, tmp_path)

# Captions longer than the text tower reads
def test_captions_over_the_context_are_counted_and_said_once(capsys, monkeypatch):
    import torch

    from vipant.frozen import towers
    monkeypatch.setattr(towers, '_said', set())

    class Tokenizer:
        def encode(self, text): return [ord(c) for c in text]
        def __call__(self, texts):
            rows = [([1] + self.encode(t) + [2])[:6] for t in texts]
            return torch.tensor([row + [0]*(6 - len(row)) for row in rows])

    class Model(torch.nn.Module):
        context_length = 6
        def encode_text(self, tokens): return tokens.float()

    frozen = towers.FrozenTowers(Model(), None, Tokenizer())
    texts = ['abc', 'abcd', 'abcde', 'abcdefghi', '']
    first, again = frozen.texts(texts, batch_size=2), frozen.texts(texts)
    assert torch.equal(first, again) and torch.equal(first, Tokenizer()(texts).float())
    lines = capsys.readouterr().out.splitlines()
    assert lines == ['2 of 5 captions are longer than the 6 tokens that the text tower reads: their ends are not read']

# Downloads
@pytest.fixture
def server(monkeypatch):
    "A server that sends ten bytes, and says what `headers` say"
    class Answer(http.server.BaseHTTPRequestHandler):
        status, headers_sent = 200, {}
        def do_GET(self):
            self.send_response(self.status)
            for k, v in (dict([('Content-Length', '10')]) | self.headers_sent).items(): self.send_header(k, v)
            self.end_headers()
            self.wfile.write(b'[0, "abc"]')
        def log_message(self, *args): pass
    own = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer)
    threading.Thread(target=own.serve_forever, daemon=True).start()
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    yield Answer, f'http://127.0.0.1:{own.server_port}'
    own.shutdown()
    own.server_close()

@pytest.mark.parametrize('status, headers, why', (
    (200, {'Content-Length': str(9*10**15)}, 'wants to send 9,000,000,000,000,000 bytes'),
    (200, {'Content-Length': '9'*40}, 'does not say how long'), (200, {'Content-Length': '²'}, 'does not say how long'),
    (206, {'Content-Range': f'bytes 0-9/{9*10**15}'}, 'wants to send'),
    (302, {'Location': 'ftp://127.0.0.1/x'}, "leads to 'ftp://127.0.0.1/x'")))
def test_a_server_that_claims_too_much_or_leads_elsewhere_is_refused(server, tmp_path, status, headers, why):
    answer, url = server
    answer.status, answer.headers_sent = status, headers
    assert why in said(ValueError, download, 'vc-b32-map', tmp_path, url)
    assert not [f for f in tmp_path.iterdir() if not f.name.endswith('.lock')]

@pytest.mark.parametrize('location', ('file:///etc/passwd', 'data:,x', 'gopher://x'))
def test_a_redirect_that_urllib_refuses_is_one_line(server, tmp_path, location):
    answer, url = server
    answer.status, answer.headers_sent = 302, {'Location': location}
    assert 'the server answers 302' in said(ConnectionError, download, 'vc-b32-map', tmp_path, url)

def test_a_hash_and_notes_that_are_damaged_do_not_stop_a_download(server, tmp_path):
    answer, url = server
    answer.headers_sent = {'x-goog-hash': 'md5=a'}
    for name in ('vc-b32-map.csv.part', 'vc-b32-map.csv.part.json'): (tmp_path/name).write_bytes(b'{')
    assert download('vc-b32-map', tmp_path, url).read_bytes() == b'[0, "abc"]'
    (tmp_path/'vc-b32-map.csv.json').write_bytes(b'{}')
    assert 'has no SHA-256' in said(ValueError, download, 'vc-b32-map', tmp_path, url)

# Copies on the hub
@pytest.mark.parametrize('spoil', (
    lambda d: b'', lambda d: b'<html>no such page</html>', lambda d: d[:-1], lambda d: d[:len(d)//2],
    lambda d: d[:4] + bytes(900) + d[904:], lambda d: d[:-8] + b'\xff'*4 + d[-4:],
    lambda d: d[:-200] + bytes(150) + d[-50:]))
def test_a_parquet_file_that_is_none_is_one_line_with_the_file(tmp_path, spoil):
    from vipant.data.hub_copies import copy_split
    path = parquet(tmp_path/'copy/data/train-0.parquet', [ROW])
    path.write_bytes(spoil(path.read_bytes()))
    assert said(ValueError, copy_split, tmp_path/'out', 'esc50', 'all', tmp_path/'copy').startswith(str(path))

@pytest.mark.parametrize('other, why', (
    (dict(audio=7), 'has a column audio of'), (dict(audio=b'x'), 'has a column audio of'),
    (dict(category=None), 'category'), (dict(fold=11), 'fold 11'), (dict(fold='one'), 'fold one'),
    (dict(filename=None), 'filename')))
def test_a_parquet_file_of_other_columns_is_one_line_with_the_file(tmp_path, other, why):
    from vipant.data.hub_copies import copy_split
    path = parquet(tmp_path/'copy/data/train-0.parquet', [ROW | other])
    line = said(ValueError, copy_split, tmp_path/'out', 'esc50', 'all', tmp_path/'copy')
    assert line.startswith(str(path)) and why in line

def test_a_row_group_that_claims_more_than_there_is_is_refused(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from vipant.data import hub_copies
    path, real = parquet(tmp_path/'a.parquet', [ROW]), pq.read_metadata

    class Claims:
        "What a file says of itself, with other numbers in it"
        def __init__(self, said, **other): self.said, self.other = said, other
        def __getattr__(self, name): return self.other[name] if name in self.other else getattr(self.said, name)
        def row_group(self, k): return Claims(self.said.row_group(k), **self.other)
        def column(self, k): return Claims(self.said.column(k), **self.other)

    for what, n in (('total_compressed_size', 10**15), ('total_compressed_size', -5), ('total_byte_size', 10**15),
                    ('total_byte_size', -1)):
        monkeypatch.setattr(pq, 'read_metadata', lambda f, what=what, n=n: Claims(real(f), **{what: n}))
        line = said(ValueError, lambda: list(hub_copies.rows(str(path), ['fold'])))
        assert line.startswith(str(path)) and 'row group 0 claims' in line

def test_a_note_of_a_copy_that_is_damaged_is_one_line(tmp_path):
    from vipant.data.hub_copies import _noted
    for text in ('', '{', '[]', '{}', '['*100_000):
        put(tmp_path/'n.json', text)
        assert said(ValueError, _noted, tmp_path/'n.json', None).startswith(f'{tmp_path}/n.json')
