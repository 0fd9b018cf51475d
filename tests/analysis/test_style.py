"""One look for all pictures, which leaves nothing behind; numbers as JSON."""

import json
import math
import sys

import matplotlib
import pytest
import torch

from mmssm.analysis import style


def test_the_look_stays_inside():
    before = dict(matplotlib.rcParams)
    with style.styled():
        assert matplotlib.rcParams['axes.spines.top'] is False
    assert dict(matplotlib.rcParams) == before


def test_no_window_is_asked_for():
    with style.styled():
        style.figure(height=1)
    assert 'matplotlib.pyplot' not in sys.modules or not [
        *matplotlib.pyplot.get_fignums()
    ]


def test_a_figure_is_written_as_wide_as_a_page_shows(tmp_path):
    path = tmp_path / 'folder/a.png'
    with style.styled():
        made, axes = style.figure(2, 3, height=2.0)
        style.show(axes[0][0], torch.rand(4, 5), 'amounts')
        style.show(axes[1][2], torch.randn(4, 5), signed=True)
        style.mark(axes[0][0], (1, 2))
        style.write_figure(path, made)
    from PIL import Image

    with Image.open(path) as image:
        assert image.size == (990, 220)
    assert [*path.parent.iterdir()] == [path]


def test_signed_maps_have_white_at_zero_and_amounts_begin_at_it():
    with style.styled():
        _, axes = style.figure(1, 2, height=1)
        signed = style.show(axes[0][0], torch.tensor([[-1.0, 3.0]]), signed=True)
        amounts = style.show(axes[0][1], torch.tensor([[0.5, 3.0]]))
        empty = style.show(axes[0][1], torch.zeros(2, 2))
    assert signed.get_clim() == (-3, 3)
    assert amounts.get_clim() == (0, 3)
    assert empty.get_clim() == (0, 1)


@pytest.mark.parametrize('shape', [(3, 4, 5), (4, 5, 3)])
def test_pictures_in_either_layout(shape):
    _, axes = style.figure(height=1)
    style.show_picture(axes[0][0], torch.rand(shape))
    (drawn,) = axes[0][0].images
    assert drawn.get_array().shape == (4, 5, 3)


def test_where_there_is_no_heat_the_picture_stays():
    image = torch.rand(3, 4, 5).double()
    heat = torch.zeros(4, 5)
    heat[1, 2] = 1
    shown = style.blend(image, heat)
    changed = (shown != image).any(0)
    assert changed.nonzero().tolist() == [[1, 2]]
    assert shown.min() >= 0
    assert shown.max() <= 1


def test_numbers(tmp_path):
    numbers = {
        'a': torch.tensor([1, 2]),
        3: (math.nan, 1 / 3, {'b': math.inf}),
        'name': None,
    }
    style.write_numbers(tmp_path / 'a.json', numbers)
    found = json.loads((tmp_path / 'a.json').read_text())
    expected = {'a': [1, 2], '3': [None, 0.333333, {'b': None}], 'name': None}
    assert found == expected
