"""Configs of classifiers: they build, agree with their names, train and are read."""

import itertools
import json
import re
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    VISUALIZERS,
    DefaultScope,
)
from mmpretrain.structures import DataSample

from mmssm import create_model
from mmssm.openmmlab import cli, released
from mmssm.openmmlab.engine.config_keys import check_config
from mmssm.weights import from_official

ROOT = Path(__file__).parents[1]
GRAMMAR = re.compile(r'[a-z\d-]+_(\d+)xb(\d+)_(in1k|cifar100|tiny-imagenet)')
CLASSES = {'in1k': 1000, 'cifar100': 100, 'tiny-imagenet': 200}
CONFIGS = [p for p in sorted(ROOT.glob('configs/*/*.py')) if GRAMMAR.fullmatch(p.stem)]
# those that build on _base_, of which each other one is a variant
FIRST = [p for p in CONFIGS if '/_base_/cls/' in p.read_text()]
each_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
each_first = pytest.mark.parametrize('path', FIRST, ids=lambda p: p.stem)
NUMBERS = itertools.count()
STAGES = dict(channels=8, depths=(1, 1, 1, 1))
SMALL = {
    'mmssm.SpatialMamba': dict(arch=STAGES),
    'mmssm.VMamba': dict(arch=dict(STAGES, expand=1)),
    'mmssm.MILA': dict(arch=dict(STAGES, heads=2)),
    'mmssm.VMINet': dict(arch=dict(STAGES, expand=2)),
    'SwinTransformer': dict(
        arch=dict(embed_dims=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 4]),
        window_size=2,
    ),
    'VisionTransformer': dict(
        arch=dict(embed_dims=64, num_layers=2, num_heads=2, feedforward_channels=16)
    ),
    'mmssm.Mega': dict(
        arch=dict(
            channels=(64,) * 4, depths=(1, 1, 1, 1), shared=8, expanded=8, hidden=8
        )
    ),
}


@pytest.fixture
def cfg(path: Path):
    loaded = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield loaded


def shrink(cfg: Config) -> None:
    """The config's network with a few channels, for pictures of 64 x 64 at most."""
    backbone = cfg.model.backbone
    host = backbone.get('host', backbone)
    small = dict(SMALL[host.type.removeprefix('mmpretrain.')])
    if host.type == 'mmssm.Mega':
        patch = 16 if host.arch == 'tiny' else host.arch.patch
        small['arch'] = dict(small['arch'], patch=patch)
        small['train_size'] = min(64, host.train_size)
    elif 'img_size' in host:
        small['img_size'] = min(64, host.img_size)
        if host.get('out_indices') == (2,):  # three stages
            small['arch'] = {
                k: v[:3] if isinstance(v, list) else v for k, v in small['arch'].items()
            }
    host.update(small, drop_path_rate=0.0)
    cfg.model.head.in_channels = 32 if host.type == 'SwinTransformer' else 64
    if cfg.model.neck and 'in_channels' in cfg.model.neck:
        cfg.model.neck.in_channels = 64


def side(cfg: Config) -> int:
    return 32 if cfg.model.head.num_classes == 100 else 64


def batch(cfg: Config, size: int = 4) -> dict[str, list]:
    """What a data loader gives."""
    torch.manual_seed(1)
    shape = (3, side(cfg), side(cfg))
    images = [torch.randint(256, shape, dtype=torch.uint8) for _ in range(size)]
    samples = [DataSample().set_gt_label(i) for i in range(size)]
    return dict(inputs=images, data_samples=samples)


@each_config
def test_parts_exist_and_agree_with_the_name(cfg, path):
    check_config(cfg)
    gpus, images, data = GRAMMAR.fullmatch(path.stem).groups()
    assert cfg.train_dataloader.batch_size == int(images)
    assert cfg.auto_scale_lr.base_batch_size == int(gpus) * int(images)
    # a variant that changes the batch says by which GPUs
    comments = re.findall(r'auto_scale_lr = .* # (\d+) GPUs x (\d+) images', cfg.text)
    assert comments[-1] == (gpus, images)
    assert cfg.model.head.num_classes == CLASSES[data]
    assert cfg.model.data_preprocessor.num_classes == CLASSES[data]
    assert cfg.train_cfg.max_epochs >= cfg.param_scheduler[-1].end == 300
    for registry, parts in (
        (HOOKS, [*cfg.default_hooks.values(), *cfg.get('custom_hooks', ())]),
        (METRICS, [cfg.val_evaluator, cfg.test_evaluator]),
        (VISUALIZERS, [cfg.visualizer]),
        (DATASETS, [cfg.train_dataloader.dataset, cfg.test_dataloader.dataset]),
    ):
        with registry.switch_scope_and_registry('mmpretrain') as active:
            assert all(active.get(part.type) for part in parts)


@each_config
def test_model_and_optimizer_build(cfg):
    ours = cfg.model.backbone.type not in ('mmssm.SSM2DHost', 'SwinTransformer')
    with torch.device('meta' if ours else 'cpu'):  # those read values as they are built
        model = MODELS.build(cfg.model)
    if hasattr(model.backbone, 'channels'):
        assert model.backbone.channels[-1] == cfg.model.head.in_channels
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    grouped = [id(p) for group in optimizer.param_groups for p in group['params']]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@each_first
def test_two_steps_move_every_parameter(cfg):
    torch.manual_seed(0)
    shrink(cfg)
    model = MODELS.build(cfg.model)
    model.init_weights()
    cfg.optim_wrapper.pop('clip_grad', None)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        logs = model.train().train_step(batch(cfg), optimizer)
        assert torch.isfinite(logs['loss'])
    after = dict(model.named_parameters())
    still = [name for name in after if torch.equal(after[name], before[name])]
    assert not still, f'two steps did not move {still}'
    with torch.no_grad():
        found = model.eval().test_step(batch(cfg))
    assert [len(sample.pred_score) for sample in found] == [
        cfg.model.head.num_classes
    ] * 4


@pytest.mark.parametrize(
    'name',
    ['spatialmamba-t_8xb128_in1k', 'vmamba-t_8xb128_in1k', 'mila-t_8xb128_in1k'],
)
def test_weight_decay_is_that_of_the_released_trainer(name):
    """There, what has one axis or is called bias is not decayed."""
    (path,) = ROOT.glob(f'configs/*/{name}.py')
    cfg = Config.fromfile(path)
    family = dict(spatialmamba='spatial_mamba').get(
        name.split('-')[0], name.split('-')[0]
    )
    keys = json.loads((golden.DATA / f'{family}_tiny_keys.json').read_text())
    flags = {
        key: torch.full(shape, float(len(shape) != 1 and not key.endswith('.bias')))
        for key, shape in keys
    }
    expected = from_official(flags, family)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.get(cfg.model.backbone.type)
        cfg.model.backbone.arch = backbone.options_of(expected)['arch']
        model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    decayed = {id(p): g['weight_decay'] > 0 for g in groups for p in g['params']}
    wrong = [
        name
        for name, p in model.backbone.named_parameters()
        if name in expected and not bool((expected[name] == decayed[id(p)]).all())
    ]
    assert not wrong
    assert len(set(expected) & set(dict(model.backbone.named_parameters()))) > 50


@pytest.mark.parametrize('data', CLASSES)
def test_pipelines(data, tmp_path):
    path = next(p for p in CONFIGS if p.stem.endswith(data))
    cfg = Config.fromfile(path)
    array = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    expected = 224
    sample = dict(gt_label=3)
    if data == 'cifar100':
        sample['img'], expected = array[:32, :32], 32
        sample |= dict(img_shape=(32, 32), ori_shape=(32, 32))
    else:
        if data == 'tiny-imagenet':
            array, expected = array[:64, :64], 64
        Image.fromarray(array).save(tmp_path / 'a.png')
        sample['img_path'] = str(tmp_path / 'a.png')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        np.random.seed(0)
        for pipeline in [cfg.train_pipeline] * 30 + [cfg.test_pipeline]:
            packed = Compose(pipeline)(dict(sample))
            assert packed['inputs'].shape == (3, expected, expected)
            assert packed['data_samples'].gt_label.tolist() == [3]


@pytest.mark.parametrize('name', ['spatial_mamba_tiny', 'vminet_xs', 'mila_tiny'])
def test_released_classifiers_fit_the_configs(name, monkeypatch):
    """Our classifier's weights, as `mmssm-test CONFIG official` loads them."""
    (path,) = (p for p in FIRST if p.parent.name == name.rpartition('_')[0])
    cfg = Config.fromfile(path)
    torch.manual_seed(0)
    ours = create_model(name).eval()
    family = ours.backbone.family
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = MODELS.build(cfg.model).eval()
    theirs.load_state_dict(released.for_mmpretrain(ours.state_dict(), family))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, mode='tensor'), ours(x))
    monkeypatch.setattr(released, 'converted', lambda found: found)
    assert released.of_config(cfg) == name


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Pictures of three classes that differ in colour, in the layout of ImageNet."""
    root = tmp_path_factory.mktemp('pictures')
    draw = np.random.default_rng(0)
    for split, label, number in itertools.product(('train', 'val'), range(3), range(4)):
        array = draw.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        array[..., label] += 150
        folder = root / split / f'n{label}'
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f'{number}.JPEG')
    return root


def train(path, pictures, work_dir, *flags, changes=()):
    """A shrunken run of a config by our own tool."""
    cfg = Config.fromfile(path)
    shrink(cfg)
    size = side(cfg)
    for step in (*cfg.train_pipeline, *cfg.test_pipeline):
        if step.type in ('RandomResizedCrop', 'ResizeEdge'):
            step.scale = size
        if step.type == 'CenterCrop':
            step.crop_size = size
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        split = 'train' if name == 'train' else 'val'
        loader.dataset = dict(
            type='CustomDataset', data_root=str(pictures), data_prefix=split
        )
        loader.dataset.pipeline = cfg[
            f'{"train" if name == "train" else "test"}_pipeline'
        ]
    cfg.model.head.num_classes = cfg.model.data_preprocessor.num_classes = 3
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.topk = (1, 3)
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.logger.interval = 1
    cfg.experiment_name = f'cls{next(NUMBERS)}'
    small = work_dir / f'{path.stem}.py'
    work_dir.mkdir(parents=True, exist_ok=True)
    cfg.dump(small)
    options = ['--cfg-options', *changes] if changes else []
    cli.train(
        [str(small), '--work-dir', str(work_dir), '--fit-schedule', *flags, *options]
    )
    return small


NAMES = ['spatialmamba-t_8xb128_in1k', 'vminet-xs_3xb256_in1k']
NAMES += ['swin-t-ssm2d_8xb128_in1k', 'mega-mini-ssm2d_1xb128_tiny-imagenet']


@pytest.mark.parametrize('name', NAMES)
def test_a_shrunken_run_by_our_own_tools(name, pictures, tmp_path, capsys):
    (path,) = ROOT.glob(f'configs/*/{name}.py')
    config = train(path, pictures, tmp_path)
    text = capsys.readouterr().out
    assert 'ImageClassifier with' in text
    assert 'accuracy/top1' in text
    assert ('loss_mesa' in text) == name.startswith('spatialmamba')
    last = (tmp_path / 'last_checkpoint').read_text()
    out = tmp_path / 'scores.pkl'
    cli.test(
        [str(config), last, '--work-dir', str(tmp_path / 'test'), '--out', str(out)]
    )
    assert 'accuracy/top3' in capsys.readouterr().out
    assert out.stat().st_size > 0
    if name == NAMES[0]:
        cli.test([str(config), last, '--work-dir', str(tmp_path / 'tta'), '--tta'])
    capsys.readouterr()
    reading = ['--weights', last, '--workers', '0', '--device', 'cpu']
    cli.evaluate([str(config), str(pictures / 'val'), *reading])
    text = capsys.readouterr().out
    assert '12 pictures of 3 classes' in text
    if name in NAMES[:2]:  # a picture is read as by the pipeline
        cli.test([str(config), last, '--work-dir', str(tmp_path / 'again')])
        tested = re.search(r'accuracy/top1: ([\d.]+)', capsys.readouterr().out)[1]
        assert f'top-1 {float(tested):6.2f}' in text
