"Captions and names of files are text in tables and on the page of results: they break, load and run nothing"
import html
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest

from vipant.engine.notebooks import find_notebook, notebook_sources
from vipant.engine.report import as_html, html_page, markdown, plain

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = [
    'a dog | a cat', r'a dog \| a cat', 'a dog\\', '| --- | --- |', '--- | ---', '# head', '- item',
    '![a](http://example.org/a.png)', '![a][b]', '[a](javascript:alert(1))', '[a]: http://example.org',
    '<script>alert(1)</script>', '<img src=http://example.org/a.png onerror=alert(1)>', '<!-- a -->', '</table>',
    '<http://example.org>', 'http://example.org/a.png', 'www.example.org', '&lt;b&gt; &#60; & co',
    '**loud** and _soft_ and __x__ and *a*', '\\*a\\*', '`code` and ~~struck~~', '$x^2$ and $$y$$',
    '"quoted" \'twice\'', 'snow ☃, e\u0301', 'x_y_z < 3 > 2', '[12.3, 4.5] (n)']

class Seen(HTMLParser):
    "What a browser sees: elements with their attributes, and the text of each table cell"
    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ('td', 'th'): self.cells.append('')
        self.inside = self.inside or tag in ('td', 'th')

    def handle_endtag(self, tag): self.inside = self.inside and tag not in ('td', 'th')

    def handle_data(self, data):
        if self.inside: self.cells[-1] += data

def assert_harmless(seen):
    "No scripts, no event handlers, nothing from elsewhere"
    allowed = set('html meta title style body h1 h2 h3 p a div nav img details summary table thead tbody tr th td code '
                  'em strong ul ol li br hr'.split())
    for tag, attrs in seen.elements:
        assert tag in allowed, tag
        assert not [a for a in attrs if a.startswith('on')], attrs
        for where in filter(None, (attrs.get('src'), attrs.get('href'))):
            assert not urlsplit(where).scheme and not where.startswith('//'), where

# ---- tables

@pytest.mark.parametrize('text', HOSTILE)
def test_a_cell_is_shown_as_it_stands(text):
    seen = Seen(as_html(markdown(pd.DataFrame({'caption': [text, 'x'], 'n': [1, 2]}))))
    assert seen.cells == ['caption', 'n', text, '1', 'x', '2']
    assert {tag for tag, _ in seen.elements} == set('table thead tbody tr th td'.split())

@pytest.mark.parametrize('text', HOSTILE)
def test_a_heading_is_shown_as_it_stands(text):
    assert Seen(as_html(markdown(pd.DataFrame({text: ['x'], 'n': [1]})))).cells == [text, 'n', 'x', '1']

@pytest.mark.parametrize('gap', ['\n', '\r\n', '\r', '\u2028', '\x0b', '\x85'])
def test_a_line_break_is_a_space(gap):
    drawn = markdown(pd.DataFrame({'caption': [f'a dog{gap}a cat'], 'n': [1]}))
    assert drawn == '| caption | n |\n| --- | --- |\n| a dog a cat | 1 |\n'

def test_other_renderers_find_no_mark_either():
    "Those of GitHub and JupyterLab, which know more marks: each of these stands behind a backslash"
    for text in HOSTILE:
        drawn = plain(text)
        for mark in (r'\|', r'`', r'\$', r'~', r'<(?=[a-z/!])', r'\](?=[(\[])', r':(?=//)'):
            found = [m.start() for m in re.finditer(mark, drawn)]
            for k in found: assert (k - len(drawn[:k].rstrip('\\'))) % 2, (drawn, mark)

def tables(text):
    "The tables of a markdown text, each a list of lines"
    return [m[0].splitlines() for m in re.finditer(r'^\|.*\n\| ---.*\n(\|.*\n?)*', text, flags=re.M)]

def cells_of(line): return line[2:-2].split(' | ')

def test_the_tables_that_are_there_stay_as_they_are():
    "Only what says so holds markdown: verdicts of the short claims, names of made things, the links of the index"
    markup = {'claims_short': ['verdict'], 'table1_survey': ['made things with captioned sounds'],
              'results_index': ['pictures', 'tables', 'notebook']}
    n = 0
    for file in sorted((ROOT/'figures'/'mini').glob('*.md')):
        for head, _, *rows in tables(file.read_text(encoding='utf-8')):
            df = pd.DataFrame([cells_of(r) for r in rows], columns=cells_of(head))
            assert markdown(df, markup.get(file.stem, ())).splitlines() == [head, _, *rows], file
            n += len(rows)
    assert n > 400

def test_only_the_named_columns_hold_markdown():
    df = pd.DataFrame({'a': ['**x**'], 'b': ['**x**']})
    assert markdown(df, markup=['b']).splitlines()[-1] == r'| \*\*x\** | **x** |'
    sources = {n: '\n'.join(notebook_sources(find_notebook(n))) for n in ('claims', 'table1_survey', 'results')}
    assert all('markup=' in s for s in sources.values())

# ---- the page of results

@pytest.mark.parametrize('text', HOSTILE)
def test_markdown_that_was_not_escaped_is_harmless_too(text):
    assert_harmless(Seen(as_html(f'{text}\n\n| a |\n| --- |\n| {text} |\n').replace('href="http', 'rel="http')))

def test_a_page_takes_nothing_from_elsewhere():
    text = html_page('a <b>', 'p {}', '<p>x</p>')
    [policy] = [a['content'] for tag, a in Seen(text).elements if a.get('http-equiv') == 'Content-Security-Policy']
    assert "default-src 'none'" in policy and 'script' not in policy and 'http' not in policy
    assert text.index('Content-Security-Policy') < text.index('<title>') and '<title>a &lt;b&gt;</title>' in text

NAMES = ['plain', 'a <b>&"c"', "![a](b)", '50% #1?', 'x[1]', 'javascript:alert(1)', 'two words']

@pytest.fixture
def page(tmp_path, monkeypatch):
    "results.html and results_index.md of a folder with hostile names, captions and titles"
    folder = tmp_path/'figures'/'smoke-1seed'
    folder.mkdir(parents=True)
    table = '## T\n\n' + markdown(pd.DataFrame({'caption': HOSTILE, 'n': range(len(HOSTILE))}))
    for name in NAMES:
        (folder/f'{name}.md').write_text(table, encoding='utf-8')
        (folder/f'{name}.png').write_bytes(b'')
        (folder/f'table3_retrieval_{name}.csv').write_text('a\n', encoding='utf-8')
        (folder/f'table3_retrieval_{name}.png').write_bytes(b'')
    for name in ('VIPANT_OVERRIDE', 'VIPANT_DATA'): monkeypatch.delenv(name, raising=False)
    for name in ('RUNS', 'FIGURES'): monkeypatch.setenv(f'VIPANT_{name}', str(tmp_path/name.lower()))
    monkeypatch.setenv('VIPANT_PROFILE', 'smoke')
    names = {}
    for source in notebook_sources(find_notebook('results')): exec(source, names)
    return folder

def test_the_page_of_results_shows_all_as_text(page, capsys):
    seen = Seen((page/'results.html').read_text(encoding='utf-8'))
    assert_harmless(seen)
    for text in HOSTILE: assert seen.cells.count(text) == len(NAMES), text
    titles = [a['alt'] for tag, a in seen.elements if tag == 'img']
    assert {*NAMES} <= {*titles}

def test_the_page_of_results_says_how_ties_count(page, capsys):
    assert "of equal scores the query's own counts first" in (page/'results.html').read_text(encoding='utf-8').lower()

def test_the_index_of_results_is_a_table_of_links(page, capsys):
    text = (page/'results_index.md').read_text(encoding='utf-8')
    seen = Seen(as_html(text))
    assert len(tables(text)) == 1 and len(seen.cells) % 5 == 0
    assert {tag for tag, _ in seen.elements} == set('table thead tbody tr th td a'.split())
    assert all(a['href'] for tag, a in seen.elements if tag == 'a')

# ---- pictures, and files in any locale

def test_a_dollar_in_a_caption_is_a_dollar(tmp_path):
    "As figure 1 and table 2 draw captions: matplotlib would read a formula, or refuse it"
    for name in ('figure1_pivot', 'table2_curation'):
        assert 'parse_math=False' in '\n'.join(notebook_sources(find_notebook(name)))
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots()
    ax.set_xlabel('costs $5^$ or $6', parse_math=False)
    fig.savefig(tmp_path/'a.png')
    plt.close(fig)

def test_html_is_unescaped_once():
    assert html.unescape(as_html(plain('&lt;b&gt;'))) == '<p>&lt;b&gt;</p>\n'
