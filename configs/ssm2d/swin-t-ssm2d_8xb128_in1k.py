# Swin's own recipe; of the layer, B and C are not decayed, as in the released code.
_base_ = '../_base_/cls/imagenet_300e.py'

model = dict(
    backbone=dict(
        type='mmssm.SSM2DHost',
        host=dict(
            type='mmpretrain.SwinTransformer',
            arch='tiny',
            img_size=224,
            drop_path_rate=0.2,
            init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ],
        ),
        start='published',
        directions=4,
    ),
    head=dict(in_channels=768),
)

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.0),
            'ssm2d.B': dict(decay_mult=0.0),
            'ssm2d.C': dict(decay_mult=0.0),
        }
    )
)
