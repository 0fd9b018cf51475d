# AdamW for 80 000 iterations with a polynomial decay and no warm-up, the recipe of PVT
# with Semantic FPN; norms are exempt from weight decay as in the longer schedule.
_base_ = './160k.py'

train_cfg = dict(max_iters=80000)
param_scheduler = [
    dict(type='PolyLR', power=0.9, by_epoch=False, begin=0, end=80000),
]
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
