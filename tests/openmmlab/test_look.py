"""The command that looks at models, on names and configs, with pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from openmmlab.engine import tiny
from PIL import Image

from mmssm.analysis import style
from mmssm.openmmlab.commands.look import main
from mmssm.openmmlab.errors import UserError
from mmssm.openmmlab.looking import cams, subjects
from mmssm.weights import save_file

pytestmark = pytest.mark.filterwarnings('ignore')
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
DETECTOR = CONFIGS / 'demo/mask-rcnn_vminet-demo_fpn_shapes.py'
HOST = CONFIGS / 'demo/mask-rcnn_swin-ssm2d-demo_fpn_shapes.py'


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures') / 'a.png'
    pixels = np.random.default_rng(0).integers(0, 256, (50, 83, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A config with a checkpoint for each task."""
    folder = tmp_path_factory.mktemp('tiny')
    found = {}
    for task in ('detection', 'segmentation'):
        config = DETECTOR if task == 'detection' else tiny.write_config(folder, task)
        cfg = Config.fromfile(config)
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = revert_sync_batchnorm(MODELS.build(cfg.model))
        model.init_weights()
        save_file({'state_dict': model.state_dict()}, folder / f'{task}.pth')
        found[task] = (str(config), str(folder / f'{task}.pth'))
    return found


@pytest.fixture
def look(tmp_path):
    """Run the command; its numbers, when both files are there."""

    def run(*words):
        out = tmp_path / 'out'
        main([*map(str, words), '--out', str(out)], 'mmssm-look')
        what = words[0]
        with Image.open(out / f'{what}.png') as image:
            assert image.format == 'PNG'
            assert image.size[0] <= style.WIDTH * style.DPI
        assert {p.name for p in out.iterdir()} == {f'{what}.png', f'{what}.json'}
        return json.loads((out / f'{what}.json').read_text())

    return run


def test_receptive_fields_untrained_and_trained_side_by_side(look, trained, capsys):
    config, weights = trained['detection']
    sizes = ['--size', '64', '64x96', '--count', '1']
    both = ['vminet_ti', config, config, '--checkpoint', 'none', 'none', weights]
    found = look('receptive-field', *both, *sizes)['fields']
    assert [f['size'] for f in found] == [[64, 64]] * 3 + [[64, 96]] * 3
    assert [f['title'].splitlines()[-1] for f in found[1:3]] == [
        'untrained',
        'detection',
    ]
    within = found[0]['contribution_within']
    sides = [within[share]['side'] for share in ('0.2', '0.3', '0.5', '0.99')]
    assert sides == sorted(sides)
    assert 'of the area' in capsys.readouterr().out


def test_the_published_form_on_pictures_and_an_earlier_map(look, picture):
    found = look(
        *['receptive-field', 'vminet_ti', '--form', 'published', '--output', 1],
        *['--image', Path(picture).parent, '--size', 64],
    )
    (field,) = found['fields']
    assert 'score_within' in field
    assert found['inputs'] == str(Path(picture).parent)
    assert field['contribution_within']['0.99']['ratio'] < 1


def test_kernels_of_a_host_and_of_fusions(look, capsys):
    found = look('kernels', HOST, '--size', 12, '--channels', 3, 5)['filters']
    assert len(found) == 6
    first = next(iter(found.values()))
    assert len(first['support']) == len(first['mean_distance']['up, left'])
    assert '6 2-D SSMs' in capsys.readouterr().out


def test_fused_kernels(look):
    found = look('kernels', 'spatial_mamba_tiny', '--layer', 'stages.3.*')['fusions']
    assert len(found) == 4
    mean = torch.tensor(next(iter(found.values()))['mean'])
    assert mean.shape == (11, 11)
    assert mean[5, 5] == 3  # ones of three dilations


def test_rows_of_families_side_by_side(look, picture):
    found = look(
        *['mixing', 'vminet_ti', HOST, '--image', picture, '--stage', 2],
        *['--at', '0.5,0.5', '0,0.9'],
    )
    vminet, host = found['rows'].values()
    assert [len(vminet), len(host)] == [4, 2]
    assert vminet[0]['map'] == [7, 11]
    assert [row['position'] for row in vminet[::2]] == [[3, 5], [0, 9]]
    assert all(0 <= row['own'] <= row['nearby'] <= 1 for row in vminet + host)


def test_one_direction_of_a_cross_scan(look, picture):
    words = ['--image', picture, '--stage', 4, '--rows', 1, '--at', '0.9,0.9']
    rows = look('mixing', 'vmamba_tiny', 'vmamba_tiny@rows-back', *words)['rows']
    (whole,), (back,) = rows.values()
    assert [*rows][1].endswith('rows-back alone')
    assert back['own'] > whole['own']  # the last position has nothing behind it
    assert back['spread'] < whole['spread']
    with pytest.raises(UserError, match=r'vmamba_tiny@up ends in @up; expected one'):
        look('mixing', 'vmamba_tiny@up', *words)
    with pytest.raises(UserError, match=r'of a SeparableAttention; expected a Cross'):
        look('mixing', 'vminet_ti@rows', *words)


def test_features_of_an_untrained_and_a_trained_one(look, picture, trained):
    config, weights = trained['segmentation']
    found = look(
        *['features', config, '--checkpoint', 'none', weights, '--image', picture],
    )['maps']
    assert len(found) == 2
    first = next(iter(found.values()))[0]
    assert first['shape'][1:] == [13, 21]


def test_heat_of_boxes_and_masks(look, picture, trained):
    config, weights = trained['detection']
    words = ['--checkpoint', weights, '--image', picture, '--score', 0, '--count', 2]
    (found,) = look('cam', config, *words)['answers'].values()
    assert [entry['kind'] for entry in found][:2] == ['box', 'box']
    assert {'mask'} == {entry['kind'] for entry in found[2:]}
    assert found[0]['score'] >= found[1]['score']
    assert found[0]['share_of_heat'].keys() == {'grad-cam', 'hires-cam'}


def test_heat_of_classes_and_pixels(look, picture, trained):
    config, weights = trained['segmentation']
    words = ['--checkpoint', weights, '--image', picture, '--at', '0.5,0.5']
    (found,) = look('cam', config, *words, '--method', 'hires-cam')['answers'].values()
    assert found[0]['kind'] == 'class'
    assert found[-1]['kind'] == 'pixel'
    assert found[0]['share_of_picture'] >= found[-1]['share_of_picture']


@pytest.mark.parametrize(
    'words, message',
    [
        (['receptive-field', 'vminet_tiny'], 'Did you mean vminet_ti'),
        (
            ['features', 'vminet_ti', '--image', 'nowhere.png'],
            'there is no picture at nowhere.png',
        ),
        (
            ['receptive-field', 'vminet_ti', '--checkpoint', 'a', 'b', 'c'],
            None,
        ),
        (['kernels', 'vminet_ti'], 'has no 2-D SSM and no state fusion'),
        (['kernels', 'spatial_mamba_tiny', '--channels', '900'], 'there are 0 to 127'),
        (['cam', 'vminet_ti', '--image', 'a'], 'give --checkpoint'),
        (
            ['receptive-field', 'vminet_ti', '--output', '5', '--size', '32'],
            'gives 4 maps',
        ),
    ],
)
def test_what_is_wrong_is_named(look, words, message):
    if message is None:
        words = [words[0], words[1], words[1], *words[2:]]
        message = '2 models and 3 checkpoints'
    with pytest.raises(UserError, match=message):
        look(*words)


def test_maps_are_numbered_from_one():
    maps = ['first', 'second', 'third']
    assert cams._chosen(maps, [3, 1]) == ['third', 'first']
    assert cams._chosen(maps, None) == maps
    for wrong in (0, 4):
        with pytest.raises(UserError, match=f'--levels has {wrong}; .* maps 1 to 3'):
            cams._chosen(maps, [1, wrong])


def test_a_stage_that_is_not_there(look, picture):
    words = ['mixing', 'vminet_ti', '--image', picture, '--stage', 5]
    with pytest.raises(UserError, match='--stage is 5; vminet_ti has mixers at 4'):
        look(*words)
    with pytest.raises(UserError, match='convnext_tiny has none'):
        look('mixing', 'convnext_tiny', '--image', picture)


def test_pictures_as_configs_want_them(picture):
    image = subjects.read(picture)
    assert image.shape == (3, 50, 83)
    assert subjects.read(picture, (20, 30)).shape == (3, 20, 30)
    plain, scaled = (
        subjects.Subject('', torch.nn.Conv2d(3, 1, 1), mean, std, bgr)
        for mean, std, bgr in [
            ((0, 0, 0), (1, 1, 1), False),
            ((1, 2, 3), (2, 2, 2), True),
        ]
    )
    values = plain.input(image)[0]
    torch.testing.assert_close(values, image * 255)
    shift = torch.tensor([1.0, 2, 3])[:, None, None]
    torch.testing.assert_close(scaled.input(image)[0], (values.flip(0) - shift) / 2)
    four = plain._replace(title='x', backbone=torch.nn.Conv2d(4, 1, 1))
    with pytest.raises(UserError, match='x takes 4 channels'):
        four.input(image)
