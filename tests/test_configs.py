"""Every config builds and agrees with its name and metafile; the smallest run."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    VISUALIZERS,
    DefaultScope,
)
from random_samples import ORIGINAL, RESIZED, batch, write_sample
from torch import nn

from mmssm.analysis.flops import count_macs
from mmssm.weights import RELEASED, DownloadError, download, official_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / 'configs'
# classifiers, which need mmpretrain, have test_configs_cls.py
CLASSIFIED = ('_in1k', '_cifar100', '_tiny-imagenet', '_classes')
CONFIGS = [
    path
    for path in sorted(FOLDER.rglob('*.py'))
    if '_base_' not in path.parts and not path.stem.endswith(CLASSIFIED)
]
CLASSIFIERS = sorted(p for s in CLASSIFIED[:3] for p in FOLDER.rglob(f'*{s}.py'))
# small networks on generated or small data, which no paper has
SMALL = {'demo', 'comparison'}
RECIPES = [path for path in CONFIGS if not SMALL & {*path.parts}]
# a family's smallest model of each method builds on _base_, the others on that one
TINY = [path for path in RECIPES if '/_base_/' in path.read_text()]
METAFILES = sorted(FOLDER.glob('*/metafile.yml'))
GRAMMAR = {
    'mmdet': r'[a-z\d-]+_[a-z\d-]+_fpn_(ms-crop-)?(?P<times>\d)x_coco',
    'mmseg': r'[a-z\d-]+_[a-z\d-]+_(?P<gpus>\d+)xb(?P<images>\d+)-(?P<k>\d+)k'
    r'_ade20k-(?P<height>\d+)x(?P<width>\d+)',
}
each_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
each_recipe = pytest.mark.parametrize('path', RECIPES, ids=lambda path: path.stem)
each_tiny = pytest.mark.parametrize('path', TINY, ids=lambda path: path.stem)


def each_tiny_of(*families: str) -> pytest.MarkDecorator:
    """As each_tiny, for the families with these folders."""
    paths = [path for path in TINY if path.parent.name in families]
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


@pytest.fixture
def cfg(path: Path):
    """The config, with its scope active."""
    loaded = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope(loaded.default_scope):
        yield loaded


def strings(node: object) -> list[str]:
    """Every string in nested containers, keys of dicts included."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        node = [*node, *node.values()]
    inner = node if isinstance(node, list | tuple) else []
    return [text for item in inner for text in strings(item)]


@each_config
def test_parts_exist_and_no_path_is_absolute(cfg):
    for text in strings(cfg.to_dict()):
        assert not text.startswith(('/', '~')), text
        assert '://' not in text, text
    splits = ('test', 'val') if 'val_dataloader' in cfg else ('test',)  # not in demos
    counts = {int(n) for n in re.findall(r"'num_classes': (\d+)", str(cfg.model))}
    for split in ('train', *splits):
        dataset = cfg[f'{split}_dataloader'].dataset
        classes = DATASETS.build(dict(dataset, lazy_init=True)).metainfo['classes']
        assert counts == {len(classes)}
    for registry, parts in (
        (HOOKS, cfg.default_hooks.values()),
        (METRICS, [cfg[f'{split}_evaluator'] for split in splits]),
        (VISUALIZERS, [cfg.visualizer]),
    ):
        with registry.switch_scope_and_registry(cfg.default_scope) as active:
            assert all(active.get(part.type) for part in parts)


@each_recipe
def test_name_batch_and_schedule_agree(cfg, path):
    name = re.fullmatch(GRAMMAR[cfg.default_scope], path.stem)
    assert name, f'{path.stem} is not a name of {GRAMMAR[cfg.default_scope]}'
    (comment,) = re.findall(r'auto_scale_lr = .* # (\d+) GPUs x (\d+) images', cfg.text)
    gpus, images = map(int, comment)
    assert images == cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=gpus * images)
    last = cfg.param_scheduler[-1].end
    if cfg.default_scope == 'mmdet':
        assert cfg.train_cfg.max_epochs == last == 12 * int(name['times'])
        return
    assert (gpus, images) == (int(name['gpus']), int(name['images']))
    assert cfg.train_cfg.max_iters == last == 1000 * int(name['k'])
    size = (int(name['height']), int(name['width']))
    assert size == cfg.crop_size == cfg.model.data_preprocessor.size
    crop = next(t for t in cfg.train_pipeline if t.type == 'RandomCrop')
    assert crop.crop_size == size


@each_config
def test_model_and_optimizer_build(cfg):
    assert cfg.auto_scale_lr.base_batch_size % cfg.train_dataloader.batch_size == 0
    model = MODELS.build(cfg.model)
    # a plain Swin calls them num_features
    channels = getattr(model.backbone, 'channels', None)
    channels = tuple(channels or model.backbone.num_features)
    if cfg.default_scope == 'mmdet':
        assert tuple(model.neck.in_channels) == channels
        head = cfg.model.get('rpn_head') or cfg.model.bbox_head
        read = model.backbone.strides[model.neck.start_level :]
        assert tuple(head.anchor_generator.strides[: len(read)]) == read
    else:
        reader = model.neck if model.with_neck else model.decode_head
        assert tuple(reader.in_channels) == channels
        if model.with_auxiliary_head:
            extra = model.auxiliary_head
            assert extra.in_channels == channels[extra.in_index]
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    grouped = [id(p) for group in optimizer.param_groups for p in group['params']]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained)


def test_compared_backbones_have_one_size():
    sizes = {}
    for path in sorted(FOLDER.glob('comparison/*-1300k_*.py')):
        cfg = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            backbone = MODELS.build(cfg.model.backbone)
        sizes[path.stem] = sum(p.numel() for p in backbone.parameters())
    assert len(sizes) == 5 * 3  # families and tasks
    middle = sum(sizes.values()) / len(sizes)
    assert all(abs(size / middle - 1) < 0.03 for size in sizes.values()), sizes
    assert abs(middle / 1.3e6 - 1) < 0.03


def test_the_readme_has_the_sizes_of_compared_backbones():
    readme = (FOLDER / 'comparison/README.md').read_text()
    rows = re.findall(
        r'^\| \[.*\]\(_base_/(.*)\.py\) \| (.*) \| (.*) \| (.*) \| (.*) \|$',
        readme,
        re.MULTILINE,
    )
    assert len(rows) == 6
    for name, depths, width, parameters, macs in rows:
        (path,) = FOLDER.glob(f'comparison/{name}-1[23]00k_upernet_camvid.py')
        cfg = Config.fromfile(path)
        settings = cfg.model.backbone.get('host', cfg.model.backbone)
        arch = settings.get('arch', settings)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            backbone = MODELS.build(cfg.model.backbone)
        count = sum(p.numel() for p in backbone.parameters())
        assert f'{count / 1e6:.3f}' == parameters
        assert f'{count_macs(backbone, (1, 3, 128, 128)).total / 1e6:.1f}' == macs
        assert ', '.join(map(str, arch.depths)) == depths
        assert str(cfg.channels[0]) == width


def test_compared_configs_differ_in_their_backbone_alone():
    for task in ('mask-rcnn_*_fpn_shapes', '*_upernet_shapes', '*_upernet_camvid'):
        rests = []
        for path in sorted(FOLDER.glob(f'comparison/{task}.py')):
            cfg = Config.fromfile(path).to_dict()
            for key in ('backbone', 'channels', 'swin'):
                cfg.pop(key, None)
            for part in ('backbone', 'neck', 'decode_head', 'auxiliary_head'):
                (cfg['model'].get(part) or {}).pop('in_channels', None)
            del cfg['model']['backbone']
            rests.append(cfg)
        assert len(rests) >= 5
        assert all(rest == rests[0] for rest in rests)


@each_tiny_of('mila', 'spatial_mamba', 'vminet')
def test_only_the_published_norms_are_exempt_from_decay(cfg, path):
    decayed = () if path.parent.name == 'mila' else ('.norm1', '.norm2')
    assert undecayed(cfg) == {
        f'{name}.{parameter}'
        for name, module in MODELS.build(cfg.model.backbone).named_modules()
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        and not name.endswith(decayed)
        for parameter in ('weight', 'bias')
    }


@each_tiny_of('vmamba')
def test_norms_without_a_name_in_the_release_are_decayed(cfg):
    assert undecayed(cfg) == {
        f'{name}.{parameter}'
        for name, module in MODELS.build(cfg.model.backbone).named_modules()
        if isinstance(module, nn.LayerNorm) and not re.search('stem|downsample', name)
        for parameter in ('weight', 'bias')
    }


@each_tiny_of('spatial_mamba', 'vmamba')
def test_no_decay_option_of_the_readme(cfg, path):
    published = undecayed(cfg)
    readme = (path.parent / 'README.md').read_text()
    option = re.search(r'^optim_wrapper = .*?^\)$', readme, re.DOTALL | re.MULTILINE)
    cfg.merge_from_dict(Config.fromstring(option[0], '.py').to_dict())
    added = {name.split('.ssm.')[-1] for name in undecayed(cfg) - published}
    bias = 'dt_bias' if path.parent.name == 'vmamba' else 'dt_proj.bias'
    assert added == {'A_log', 'D', bias}


def undecayed(cfg: Config) -> set[str]:
    """Parameters of the backbone without weight decay."""
    model = MODELS.build(cfg.model)
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    exempt = [group for group in groups if group['weight_decay'] == 0]
    found = {id(p) for group in exempt for p in group['params']}
    return {names[i] for i in found & names.keys()}


@each_tiny
def test_train_step_and_prediction(cfg):
    model = build_small(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):  # a part whose gain starts at zero moves in the second step
        logs = model.train().train_step(batch(cfg.default_scope), optimizer)
        assert torch.isfinite(logs['loss'])
    after = dict(model.named_parameters())
    still = [name for name in after if torch.equal(after[name], before[name])]
    assert not still, f'two steps did not move {still}'

    with torch.no_grad():
        samples = model.eval().test_step(batch(cfg.default_scope))
    assert len(samples) == 2
    for sample in samples:
        if cfg.default_scope == 'mmdet':
            found = sample.pred_instances
            assert len(found) > 0
            if 'segm' in cfg.val_evaluator.metric:
                assert found.masks.shape == (len(found), *ORIGINAL)
        else:
            assert sample.pred_sem_seg.shape == ORIGINAL
            assert sample.seg_logits.shape == ORIGINAL


@each_tiny
def test_pipelines_and_flipped_scales(cfg, tmp_path):
    source = write_sample(cfg.default_scope, tmp_path)
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        packed = Compose(pipeline)(dict(source))
        assert packed['inputs'].shape[0] == 3
        sample = packed['data_samples']
        assert sample.img_shape == packed['inputs'].shape[1:]
        if cfg.default_scope == 'mmdet':
            assert 'bboxes' in sample.gt_instances
        else:
            assert 'gt_sem_seg' in sample
    if cfg.default_scope == 'mmdet':
        return
    for resize in cfg.tta_pipeline[1].transforms[0]:
        resize.scale = tuple(side // 8 for side in resize.scale)
    views = Compose(cfg.tta_pipeline)(dict(source))
    assert len(views['inputs']) == 6  # 3 scales x 2 flips
    model = revert_sync_batchnorm(MODELS.build(dict(cfg.tta_model, module=cfg.model)))
    with torch.no_grad():
        (sample,) = model.eval().test_step(pseudo_collate([views]))
    assert sample.pred_sem_seg.shape == ORIGINAL


@each_tiny
def test_unknown_key_and_missing_weights_are_named(cfg, monkeypatch, tmp_path):
    def no_network(*_):
        raise OSError('no network')

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MMSSM_HOME', str(tmp_path / 'weights'))
    monkeypatch.setitem(sys.modules, 'gdown', None)
    monkeypatch.setattr(download, '_go_on', no_network)
    monkeypatch.setattr(download, 'TRIES', 1)
    weights = cfg.model.backbone.get('init_cfg')
    if weights is not None:
        backbone = MODELS.build(cfg.model.backbone)
        assert not (tmp_path / 'weights').exists()  # building does not download
        error = DownloadError if weights.checkpoint == 'official' else FileNotFoundError
        with pytest.raises(error, match='init_cfg=None') as caught:
            backbone.init_weights()
        name = official_name(backbone.family, backbone.arch)
        named = name if error is DownloadError else weights.checkpoint
        assert named in str(caught.value)
        assert '\n' not in str(caught.value)
    with pytest.raises(TypeError, match='droppath_rate'):
        MODELS.build(dict(cfg.model.backbone, droppath_rate=0.1))


@each_recipe
def test_released_classifiers_are_where_training_starts(cfg):
    backbone = cfg.model.backbone
    family = {
        'mmssm.MILA': 'mila',
        'mmssm.SpatialMamba': 'spatial_mamba',
        'mmssm.VMamba': 'vmamba',
        'mmssm.VMINet': 'vminet',
    }
    name = f'{family.get(backbone.type)}_{backbone.get("arch")}'
    official = backbone.get('init_cfg') == dict(
        type='Pretrained', checkpoint='official'
    )
    assert official == (name in RELEASED)


def test_metafiles_list_every_config():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert [ROOT / name for name in index['Import']] == METAFILES
    listed = []
    for metafile in METAFILES:
        meta = yaml.safe_load(metafile.read_text())
        collections = {c['Name']: c for c in meta['Collections']}
        assert all((ROOT / c['README']).is_file() for c in collections.values())
        for entry in meta['Models']:
            listed.append(ROOT / entry['Config'])
            assert entry['Name'] == listed[-1].stem
            assert entry['In Collection'] in collections
            results = entry.get('Results', [])
            assert entry['Metadata']['Published'] is bool(results)
            released = RELEASED.get(entry['Metadata'].get('Zoo') or entry['Name'])
            assert entry.get('Weights') == (released and released.url)
            assert all(result['Metrics'] for result in results)
    assert sorted(listed) == sorted([*RECIPES, *CLASSIFIERS])


def build_small(cfg: Config) -> nn.Module:
    """The model with few proposals or a small crop, as one process would build it."""
    torch.manual_seed(0)
    host = cfg.model.backbone.get('host', cfg.model.backbone)
    host.drop_path_rate = 0.0  # a dropped branch would not move
    if cfg.default_scope == 'mmdet':
        train, test = cfg.model.train_cfg, cfg.model.test_cfg
        if 'rpn_head' in cfg.model:
            for proposals in (train.rpn_proposal, test.rpn):
                proposals.update(nms_pre=50, max_per_img=20)
            train.rcnn.sampler.num = 16
        test.get('rcnn', test).update(score_thr=0.0, max_per_img=5)
    else:
        cfg.model.data_preprocessor.size = RESIZED
    return revert_sync_batchnorm(MODELS.build(cfg.model))


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if 'upernet' in p.stem], ids=lambda path: path.stem
)
def test_segmenters_tell_how_one_picture_is_read(path):
    cfg = Config.fromfile(path)
    kinds = [step.type for step in cfg.test_pipeline]
    assert kinds[0] == 'LoadImageFromFile'
    assert kinds[-1] == 'PackSegInputs'
    dataset = cfg.test_dataloader.dataset
    assert dataset.pipeline == cfg.test_pipeline


def test_a_demo_segmenter_reads_one_picture_by_the_stock_tool(tmp_path):
    from mmseg.apis import inference_model, init_model

    cfg = Config.fromfile(FOLDER / 'demo/spatialmamba-demo_upernet_shapes.py')
    picture = np.zeros((40, 56, 3), dtype=np.uint8)
    result = inference_model(init_model(cfg, device='cpu'), picture)
    assert result.pred_sem_seg.data.shape == (1, 40, 56)
