"""Released weights: what the authors published, where, and under which name here.

The sizes and SHA-256 of the files are not published; `mmssm.weights.fetch` records them
at the first download and compares ever after.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

DRIVE = 'drive:'
DRIVE_URL = 'https://drive.google.com/uc?export=download&id='


class Released(NamedTuple):
    """One released file.

    address: a URL; 'drive:ID' is a file of Google Drive.
    family: of `mmssm.weights.FAMILIES`.  arch: size in the zoo of its backbone.
    task: 'classification', 'detection' (COCO) or 'segmentation' (ADE20K).
    metrics: as published by the authors; none was measured here.
    sha256, size: None where the authors state none.
    """

    address: str
    family: str
    arch: str
    task: str
    metrics: Mapping[str, float]
    sha256: str | None = None
    size: int | None = None

    @property
    def url(self) -> str:
        """The address for a browser."""
        key = self.address.removeprefix(DRIVE)
        return f'{DRIVE_URL}{key}' if key != self.address else key


VMINET = 'https://github.com/yws-wxs/VMINet/releases/download/output'
VMAMBA = 'https://github.com/MzeroMiko/VMamba/releases/download'
MILA = 'https://cloud.tsinghua.edu.cn/f'
# What this package has backbones for.
FAMILIES = ('spatial_mamba', 'vmamba', 'vminet')


def _classifier(address: str, family: str, arch: str, top1: float) -> Released:
    return Released(address, family, arch, 'classification', {'top-1': top1})


def _detector(
    address: str, family: str, arch: str, box: float, mask: float
) -> Released:
    return Released(
        address, family, arch, 'detection', {'box AP': box, 'mask AP': mask}
    )


def _segmenter(
    address: str, family: str, arch: str, single: float, multiple: float
) -> Released:
    return Released(
        address,
        family,
        arch,
        'segmentation',
        {'mIoU': single, 'mIoU(ms+flip)': multiple},
    )


def _det(family: str, size: str, schedule: str = '1x') -> str:
    return f'mask-rcnn_{family}-{size}_fpn_{schedule}_coco'


def _seg(family: str, size: str) -> str:
    return f'{family}-{size}_upernet_4xb4-160k_ade20k-512x512'


def _short(arch: str) -> str:
    """As configs name it: 'tiny_s2l5' is t-s2l5."""
    size, *form = arch.split('_')
    return '-'.join([size[0], *form])


S = 'spatial_mamba'
# name (of a classifier in the zoo, or of a config) -> file
ALL: dict[str, Released] = {
    'spatial_mamba_tiny': _classifier(
        'drive:19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW', S, 'tiny', 83.5
    ),
    'spatial_mamba_small': _classifier(
        'drive:1Wb3sYoWLpgmWrmHMYKwdgDwGPZaqM28O', S, 'small', 84.6
    ),
    'spatial_mamba_base': _classifier(
        'drive:1k8dHp2QRCOqBSgAi36YkhZp_O8LqOPjM', S, 'base', 85.3
    ),
    _det('spatialmamba', 't'): _detector(
        'drive:1lmA0_pBQbvuMkJD1R5m3oS_2jXaSy3N3', S, 'tiny', 47.6, 42.9
    ),
    _det('spatialmamba', 's'): _detector(
        'drive:1pzjz1A6nWA9W2FW2Ymg5JSAMbvxmc2hP', S, 'small', 49.2, 44.0
    ),
    _det('spatialmamba', 'b'): _detector(
        'drive:1oTyT0q88ernqc1_IyqBWHrVJJPGNRN8r', S, 'base', 50.4, 45.1
    ),
    _det('spatialmamba', 't', 'ms-crop-3x'): _detector(
        'drive:1PY0_8ZCwogssmaULdc6MzVbCTGm_83Ew', S, 'tiny', 49.3, 43.6
    ),
    _det('spatialmamba', 's', 'ms-crop-3x'): _detector(
        'drive:19fDAk8cyMplgVRKqU0BC_3l1NxXzHYl_', S, 'small', 50.5, 44.6
    ),
    _seg('spatialmamba', 't'): _segmenter(
        'drive:1ngRweMh6vLjfZ43fb_o_ZyHs6psxb6Ix', S, 'tiny', 48.6, 49.4
    ),
    _seg('spatialmamba', 's'): _segmenter(
        'drive:1Ve07Um4dIPCcdg0mdNLjGxJtxKNWB_Sy', S, 'small', 50.6, 51.4
    ),
    _seg('spatialmamba', 'b'): _segmenter(
        'drive:1DLSC20TiSfzWrdgLRSdgrhnDn79nruB6', S, 'base', 51.8, 52.6
    ),
    'vminet_xs': _classifier(f'{VMINET}/XS-ckpt.pth.tar', 'vminet', 'xs', 76.5),
    'vminet_s': _classifier(f'{VMINET}/S-ckpt.pth.tar', 'vminet', 's', 79.0),
    'vminet_b': _classifier(f'{VMINET}/B-ckpt.pth.tar', 'vminet', 'b', 80.9),
}
for _arch, _file, _top1 in (
    ('tiny', 'vssm1_tiny_0230s_ckpt_epoch_264', 82.6),
    ('tiny_s2l5', 'vssm_tiny_0230_ckpt_epoch_262', 82.5),
    ('small', 'vssm_small_0229_ckpt_epoch_222', 83.6),
    ('base', 'vssm_base_0229_ckpt_epoch_237', 83.9),
):
    ALL[f'vmamba_{_arch}'] = _classifier(
        f'{VMAMBA}/%23v2cls/{_file}.pth', 'vmamba', _arch, _top1
    )
for _arch, _schedule, _file, _box, _mask in (
    ('tiny', '1x', 'tiny_s_epoch_12', 47.3, 42.7),
    ('tiny_s2l5', '1x', 'tiny_epoch_12', 47.4, 42.7),
    ('small', '1x', 'small_epoch_11', 48.7, 43.7),
    ('base', '1x', 'base_epoch_11', 49.2, 44.1),
    ('tiny', 'ms-crop-3x', 'tiny_ms_3x_s_epoch_31', 48.8, 43.7),
    ('tiny_s2l5', 'ms-crop-3x', 'tiny_ms_3x_epoch_36', 48.9, 43.7),
    ('small', 'ms-crop-3x', 'small_ms_3x_epoch_32', 49.9, 44.2),
):
    ALL[_det('vmamba', _short(_arch), _schedule)] = _detector(
        f'{VMAMBA}/%23v2det/mask_rcnn_vssm_fpn_coco_{_file}.pth',
        'vmamba',
        _arch,
        _box,
        _mask,
    )
for _arch, _file, _single, _multiple in (
    ('tiny', 'tiny_s_iter_160000', 47.9, 48.8),
    ('tiny_s2l5', 'tiny_iter_160000', 48.3, 48.6),
    ('small', 'small_iter_144000', 50.6, 51.2),
    ('base', 'base_iter_160000', 51.0, 51.6),
):
    ALL[_seg('vmamba', _short(_arch))] = _segmenter(
        f'{VMAMBA}/%23v2seg/upernet_vssm_4xb4-160k_ade20k-512x512_{_file}.pth',
        'vmamba',
        _arch,
        _single,
        _multiple,
    )
for _arch, _key, _top1 in (
    ('tiny', '7a19712877cb4242889c', 83.5),
    ('small', '0e5d0b1409d540aaa80c', 84.4),
    ('base', '91c85c5a1061496d8796', 85.3),
):
    ALL[f'mila_{_arch}'] = _classifier(f'{MILA}/{_key}/?dl=1', 'mila', _arch, _top1)

# name -> file, of the families that this package has
RELEASED = {name: entry for name, entry in ALL.items() if entry.family in FAMILIES}


def official_name(family: str, arch: str, task: str = 'classification') -> str:
    """Name of the released weights of a backbone, or of a whole detector or segmenter.

    family, arch: as in the zoo, 'spatial_mamba', 'tiny'.
    task: 'classification', or a config's path or stem, of which the released detector
    or segmenter has the name.
    Raises ValueError where the authors released none, with what they did release.
    """
    if task == 'classification':
        name = f'{family}_{arch}'
    else:
        name = PurePath(task).name.removesuffix('.py')
    if name not in RELEASED:
        raise ValueError(
            f'no weights were released for {name!r}; released are '
            f'{", ".join(RELEASED)}. Give the path of a file, or start without weights'
        )
    return name
