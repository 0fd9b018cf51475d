"""A page about a training that needs no other file: pictures and style are in it."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mmssm.openmmlab.reporting import confusion, curves
from mmssm.openmmlab.reporting.data_summary import Summary
from mmssm.openmmlab.reporting.evaluating import Evaluation
from mmssm.openmmlab.reporting.material import Material
from mmssm.openmmlab.reporting.sheets import Tile
from mmssm.openmmlab.reporting.style import png, styled

HEADLINES = ('boxes AP', 'boxes AP50', 'masks AP', 'masks AP50', 'mIoU', 'aAcc', 'mAcc')
WIDEST = 1400  # pixels of a row of pictures
QUALITY = 85  # of its JPEG
CLASSES = 40  # rows of the data's table that are not folded away
STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2933; --quiet: #66727f;
  --line: #dfe3e8; --card: #f6f8fa; --bar: #b7d7ea; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161b22; --ink: #e6edf3; --quiet: #9aa4b0; --line: #30363d;
    --card: #1f262e; --bar: #1f4e79; --accent: #4ba3e3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 24px 20px 60px; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid var(--line);
  font-size: 19px; }
h3 { margin: 20px 0 8px; font-size: 15px; }
p { margin: 6px 0; } p.quiet, figcaption, th { color: var(--quiet); }
nav { margin: 12px 0; } nav a { margin-right: 14px; color: var(--accent); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0; }
.tile { padding: 8px 16px; border-radius: 8px; background: var(--card); }
.tile b { display: block; font-size: 22px; font-weight: 600; }
.tile span { color: var(--quiet); font-size: 13px; }
.note { margin: 6px 0; padding: 8px 12px; border-left: 3px solid #d55e00;
  background: var(--card); overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 3px 12px 3px 0; border-bottom: 1px solid var(--line);
  text-align: right; font-weight: normal; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--quiet); white-space: nowrap; }
td.bar { background: linear-gradient(to right, var(--bar) var(--part),
  transparent var(--part)); padding-left: 6px; }
img { max-width: 100%; height: auto; border-radius: 6px; vertical-align: top; }
figure { margin: 0 0 18px; } figcaption { margin-top: 4px; font-size: 13px; }
i.key { display: inline-block; width: 11px; height: 11px; margin: 0 4px 0 10px;
  border: 1px solid var(--quiet); }
pre { overflow-x: auto; padding: 12px; border-radius: 8px; background: var(--card);
  font: 12.5px/1.45 ui-monospace, monospace; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
"""


def page(material: Material) -> str:
    """The HTML, which fetches nothing."""
    parts = [
        ('metrics', 'Metrics', _metrics(material)),
        ('curves', 'Learning curves', _curves(material)),
        ('classes', 'Classes', _classes(material.evaluation)),
        ('confusion', 'Confusions', _confusions(material)),
        ('samples', 'Predictions beside the truth', _pairs(material.samples)),
        ('worst', 'The worst pictures', _worst(material)),
        ('field', 'Receptive field', _field(material)),
        ('data', 'Data', ''.join(map(_summary, material.data))),
        ('run', 'Versions and commands', _versions(material)),
        ('config', 'Config', _config(material)),
    ]
    there = [(key, title, body) for key, title, body in parts if body]
    links = ''.join(f'<a href="#{key}">{title}</a> ' for key, title, _ in there)
    sections = ''.join(
        f'<section id="{key}"><h2>{title}</h2>{body}</section>\n'
        for key, title, body in there
    )
    notes = ''.join(f'<p class="note">{escape(text)}</p>' for text in material.missing)
    name = escape(material.name)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,"><title>{name}</title>\n'
        f'<style>{STYLE}</style></head><body>\n'
        f'<header><h1>{name}</h1>{_subtitle(material)}<nav>{links}</nav>{notes}'
        f'</header>\n{sections}</body></html>\n'
    )


def _subtitle(material: Material) -> str:
    facts = [value for _, value in material.model]
    if material.checkpoint is not None:
        facts.append(material.checkpoint.name)
    return f'<p class="quiet">{escape(" · ".join(facts))}</p>'


def _metrics(material: Material) -> str:
    result = material.evaluation
    if result is None:
        return ''
    values = [(key, result.overall[key]) for key in HEADLINES if key in result.overall]
    tiles = ''.join(
        f'<div class="tile"><b>{_shown(v)}</b><span>{key}</span></div>'
        for key, v in values
    )
    every = [(key, _shown(value)) for key, value in result.overall.items()]
    looked = len(result.outcomes)
    number = 'all' if looked == material.pictures else f'{looked} of'
    what = (
        f'On {number} {material.pictures} pictures of the data, computed for this page'
    )
    folded = f'<details><summary>all metrics</summary>{_facts(every)}</details>'
    return f'<div class="tiles">{tiles}</div><p class="quiet">{what}.</p>{folded}'


def _curves(material: Material) -> str:
    if material.run is None:
        return ''
    run = material.run
    notes = ''.join(f'<p class="note">{escape(note)}</p>' for note in run.notes)
    return notes + _both(lambda dark: curves.draw([run], dark), 'learning curves')


def _classes(result: Evaluation | None) -> str:
    if result is None:
        return ''
    heads = list(result.rows[0])
    body = [[row[head] for head in heads] for row in result.rows]
    return _table(heads, body)


def _confusions(material: Material) -> str:
    result = material.evaluation
    if result is None:
        return ''
    of = 'pixels' if material.of_pixels else 'objects'

    def draw(dark: bool) -> Figure:
        return confusion.draw(result.labels, result.confusion, of, dark)

    pairs = confusion.confused(result.labels, result.confusion)
    table = _table(['truth', 'taken for', of], pairs) if pairs else ''
    words = (
        'Each row is the truth and adds up to 100 %. '
        + 'The last row is what was found where nothing is, the last column what was '
        'missed; an object is found where boxes overlap by an IoU of 0.5.'
        * (not material.of_pixels)
    )
    return f'<p class="quiet">{words}</p>{_both(draw, "confusion matrix")}{table}'


def _worst(material: Material) -> str:
    return ''.join(
        f'<h3>by {escape(title)}</h3>{_pairs(tiles)}'
        for title, tiles in material.worst.items()
    )


def _pairs(tiles: Sequence[Tile]) -> str:
    return ''.join(map(_figure, tiles))


def _figure(tile: Tile) -> str:
    keys = ''.join(
        f'<i class="key" style="background:rgb{tuple(int(v) for v in colour)}"></i>'
        f'{escape(name)}'
        for name, colour in tile.legend
    )
    words = '<br>'.join(map(escape, tile.words))
    about = escape(tile.words[0])
    caption = words + (f'<br>{keys}' if keys else '')
    return (
        f'<figure><img loading="lazy" alt="{about}" src="{_jpeg(tile.picture)}">'
        f'<figcaption>{caption}</figcaption></figure>'
    )


def _field(material: Material) -> str:
    if material.receptive_field is None:
        return ''
    with styled():
        content = png(material.receptive_field())
    words = (
        "How much each pixel of the input moves the backbone's last map in its middle, "
        'trained, on pictures of the data; the squares hold half and 99 % of it.'
    )
    image = f'<img alt="receptive field" src="{_uri(content, "png")}">'
    return f'<p class="quiet">{words}</p>{image}'


def _summary(summary: Summary) -> str:
    """Facts, and how often each class occurs, the most frequent first."""
    rows = sorted(summary.classes, key=lambda row: -row[1])
    top = max([share for _, _, share in rows], default=0) or 1
    lines = [
        f'<tr><td>{escape(name)}</td><td>{count:,}</td>'
        f'<td class="bar" style="--part:{100 * share / top:.1f}%">'
        f'{100 * share:.1f} %</td></tr>'
        for name, count, share in rows
    ]
    head = '<tr><th>class</th><th>count</th><th>share</th></tr>'
    table = f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'
    if len(rows) > CLASSES:
        table = f'<details><summary>{len(rows)} classes</summary>{table}</details>'
    return f'<h3>{escape(summary.key)}</h3>{_facts(summary.facts)}<br>{table}'


def _versions(material: Material) -> str:
    facts = [*material.versions]
    if material.checkpoint is not None:
        facts.insert(0, ('checkpoint', str(material.checkpoint)))
    lines = '\n'.join(material.commands)
    told = f'<h3>commands</h3><pre>{escape(lines)}</pre>' if lines else ''
    return _facts(facts) + told


def _config(material: Material) -> str:
    text = material.config.pretty_text
    folded = f'<pre>{escape(text)}</pre>'
    return f'<details><summary>{text.count(chr(10))} lines</summary>{folded}</details>'


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    rows = ''.join(
        f'<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>'
        for name, value in facts
    )
    return f'<table class="facts">{rows}</table>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = ''.join(f'<th>{escape(name)}</th>' for name in heads)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{escape(_shown(v))}</td>' for v in row) + '</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _shown(value: object) -> str:
    if value is None:
        return '–'
    if isinstance(value, float):
        return f'{value:.3f}'
    return f'{value:,}' if isinstance(value, int) else str(value)


def _both(draw: Callable[[bool], Figure], about: str) -> str:
    """A figure for light and one for dark pages."""
    light, dark = (_uri(png(draw(night)), 'png') for night in (False, True))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{about}" src="{light}"></picture>'
    )


def _jpeg(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((WIDEST, WIDEST))
    content = io.BytesIO()
    image.save(content, 'JPEG', quality=QUALITY)
    return _uri(content.getvalue(), 'jpeg')


def _uri(content: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
