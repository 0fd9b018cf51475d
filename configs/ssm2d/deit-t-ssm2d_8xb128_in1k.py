# DeiT's own recipe (arXiv 2012.12877): 5 epochs of warm-up, repeated augmentation, no
# clipping; of the layer, B and C are not decayed, as in the released code.
_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmpretrain.VisionTransformer',
            arch='deit-tiny',
            img_size=224,
            patch_size=16,
            drop_path_rate=0.1,
            init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ],
        ),
        start='published',
        directions=4,
        pyramid=False,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=192),
)

train_dataloader = dict(sampler=dict(type='RepeatAugSampler'))

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-2, by_epoch=True, begin=0, end=300),
]
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'cls_token': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'ssm2d.B': dict(decay_mult=0.0),
            'ssm2d.C': dict(decay_mult=0.0),
        }
    ),
    clip_grad=None,
)
