_base_ = './swin.py'

backbone = dict(type='mmssm.SSM2DHost', host=_base_.swin, start='published')
