"""Pictures of four bands: pretrained weights, sizes and training, all by config."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from openmmlab.engine import tiny
from PIL import Image

from mmssm.openmmlab import cli
from mmssm.openmmlab.commands import flops
from mmssm.weights import adapt_in_channels, load_weights, save_file

BANDS = dict(mean=[127.0], std=[60.0])


@pytest.fixture
def folder(tmp_path):
    tiny.write_data(tmp_path / 'data')
    for path in (tmp_path / 'data/images').iterdir():
        Image.open(path).convert('RGBA').save(path)
    return tmp_path


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
        model.init_weights()
    return model


def test_weights_of_three_channels_train_on_four(folder):
    cfg = Config.fromfile(tiny.write_config(folder, 'segmentation'))
    three = build(cfg).backbone
    save_file(three.state_dict(), folder / 'three.pth')
    more = f"""
backbone.update(in_channels=4, init_cfg=dict(
    type='Pretrained', checkpoint='{folder}/three.pth', allow_unexpected=()))
model['data_preprocessor'].update({BANDS})
load[0]['color_type'] = 'unchanged'
"""
    path = tiny.write_config(folder, 'segmentation')
    path.write_text(path.read_text() + more)
    stem = next(n for n, p in three.named_parameters() if p.dim() == 4)
    weight = build(Config.fromfile(path)).backbone.get_parameter(stem)
    assert torch.equal(weight, adapt_in_channels(three.get_parameter(stem), 4))
    work_dir = ['--work-dir', str(folder / 'work')]
    cli.train([str(path), *work_dir, '--cfg-options', 'experiment_name=bands'])
    assert (folder / 'work/last_checkpoint').is_file()


def test_shapes_that_differ_elsewhere_are_not_allowed_by_names():
    with pytest.raises(ValueError, match='Shapes may not differ') as error:
        load_weights(torch.nn.Linear(2, 3), torch.nn.Linear(4, 3).state_dict())
    assert 'allow_missing' not in str(error.value)


def test_sizes_are_of_as_many_channels_as_the_model_takes(folder):
    cfg = Config.fromfile(tiny.write_config(folder, 'segmentation'))
    three = flops.sizes(cfg, (64, 64))
    cfg.model.backbone.in_channels = 4
    four = flops.sizes(cfg, (64, 64))
    # 3 x 3 weights to 2 channels at half the size
    assert four.parameters - three.parameters == 18
    assert four.model.total - three.model.total == 18 * 32 * 32
