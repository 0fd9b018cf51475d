# The classifier on ImageNet-1K by the recipe of Swin.
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224.py',
    './schedules/300e.py',
    './runtime.py',
]
