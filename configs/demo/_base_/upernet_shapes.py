# UPerNet made small for two CPU cores, trained on crops of 128x128.
_base_ = [
    '../../_base_/seg/models/upernet.py',
    '../../_base_/seg/runtime.py',
    './schedule.py',
]

classes = ('background', 'ball', 'star', 'melon', 'ring', 'sail', 'crate')
small = dict(
    num_classes=len(classes),
    norm_cfg=dict(type='BN'),
    dropout_ratio=0.0,
    # ten times mmseg's: learns from the first iterations on
    init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
)
crop_size = (128, 128)

model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(channels=48, **small),
    auxiliary_head=dict(channels=32, **small),
)

optim_wrapper = dict(optimizer=dict(lr=8e-3))

data_root = 'data/demo/shapes_ade/'
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes),
    reduce_zero_label=True,
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='RandomCrop', crop_size=crop_size),
            dict(
                type='RandomFlip',
                prob=[0.25, 0.25, 0.25],
                direction=['horizontal', 'vertical', 'diagonal'],
            ),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path='images/validation', seg_map_path='annotations/validation'
        ),
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1),
)
log_processor = dict(window_size=20)
