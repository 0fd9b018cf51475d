"""A classifier without statistics of a batch, trained with MESA by a config."""

from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

CONFIG = """
custom_imports = dict(imports=['openmmlab.engine.distilled'])
default_scope = 'mmengine'
model = dict(type='DistilledModel')
train_dataloader = dict(
    batch_size={batch_size}, num_workers=0, dataset=dict(type='DistilledData'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'))
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5))
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
custom_hooks = [dict(type='mmssm.MESAHook', weight=2.0, begin=0.5, momentum=0.3)]
randomness = dict(seed=3)
"""


@MODELS.register_module()
class DistilledModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        self.head = nn.Linear(6, 5)

    def forward(self, inputs, labels=None, mode='tensor'):
        if mode == 'loss':
            return self.loss(inputs, labels)
        return self.head(self.backbone(inputs))

    def loss(self, inputs, labels):
        logits = self.head(self.backbone(inputs))
        return {'loss': nn.functional.cross_entropy(logits, labels)}


@DATASETS.register_module()
class DistilledData(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 24

    def __getitem__(self, index):
        draw = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(4, generator=draw), labels=index % 5)


def write_config(folder: Path, batch_size: int) -> Path:
    """A run of 3 iterations in each of 4 epochs, where the batch is 8 in all."""
    path = folder / f'mesa{batch_size}.py'
    path.write_text(CONFIG.format(batch_size=batch_size))
    return path
