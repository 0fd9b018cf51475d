# The layer in the perceptrons, as the authors' README runs it.
_base_ = './vit-mini_1xb128_tiny-imagenet.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmssm.SSM2DHost',
        host=_base_.model.backbone,
        start='published',
        place='ffn',
        directions=2,
        num_states=16,
        num_ssms=2,
        norm=True,
        pyramid=False,
    )
)
