_base_ = './swin-mini_1xb128_tiny-imagenet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssm.SSM2DHost',
        host=_base_.model.backbone,
        start='published',
        directions=4,
        num_states=16,
        num_ssms=1,
    )
)
