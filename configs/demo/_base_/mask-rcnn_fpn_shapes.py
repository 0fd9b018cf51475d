# Mask R-CNN made small for two CPU cores: 64 channels behind the backbone, anchors and
# proposals for pictures of about 128x136 with objects of 14 to 75 pixels.
_base_ = [
    '../../_base_/det/models/mask_rcnn_fpn.py',
    '../../_base_/det/runtime.py',
    './schedule.py',
]

classes = ('ball', 'star', 'melon', 'ring', 'sail', 'crate')
strides = [4, 8, 16, 32]
proposals = dict(nms_pre=200, max_per_img=100)

model = dict(
    neck=dict(out_channels=64, num_outs=4, norm_cfg=dict(type='BN')),
    rpn_head=dict(
        # larger than mmdet's: learns from the first iterations on
        init_cfg=dict(
            type='Kaiming',
            layer='Conv2d',
            a=1,
            distribution='uniform',
            nonlinearity='leaky_relu',
        ),
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[4], strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=2)
        ),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            num_classes=len(classes),
            reg_class_agnostic=True,
            reg_decoded_bbox=True,
            loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=5.0),
        ),
        mask_roi_extractor=dict(
            out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=2)
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=len(classes),
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=proposals,
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=proposals, rcnn=dict(max_per_img=50)),
)

data_root = 'data/demo/shapes_coco/'
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=classes),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='RandomFlip',
                prob=[0.25, 0.25, 0.25],
                direction=['horizontal', 'vertical', 'diagonal'],
            ),
            dict(type='PackDetInputs'),
        ],
    ),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale_factor=1.0),
            dict(
                type='PackDetInputs',
                meta_keys=(
                    'img_id',
                    'img_path',
                    'ori_shape',
                    'img_shape',
                    'scale_factor',
                ),
            ),
        ],
    ),
)
test_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['bbox', 'segm'],
)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=100, max_keep_ckpts=1),
)
log_processor = dict(window_size=20, by_epoch=False)
