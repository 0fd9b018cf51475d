"""The known traps of the OpenMMLab stacks, and the exact fix of each."""

from typing import Literal, NamedTuple

from mmssm.openmmlab.doctor import conditions as when
from mmssm.openmmlab.doctor.facts import Facts


class Trap(NamedTuple):
    """One trap.

    level: 'fail' makes work here impossible, 'warn' breaks something in particular,
    'note' is a limit to know of.  fix holds {pip}, {mmcv} and {stack}: pip of this
    Python, the requirement of mmcv and those of the whole stack.
    """

    level: Literal['fail', 'warn', 'note']
    title: str
    applies: when.Condition
    fix: str


class Finding(NamedTuple):
    """A trap with what was found; detail None: it does not apply here."""

    level: str
    title: str
    detail: str | None
    fix: str


PINS = {
    'onedl': (
        'onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 onedl-mmdetection==3.5.1 '
        'onedl-mmsegmentation==1.4.2'
    ),
    'openmmlab': (
        'mmengine==0.10.7 mmcv==2.1.0 mmdet==3.3.0 mmsegmentation==1.2.2 ftfy regex '
        "'setuptools<82'"
    ),
}
STACK = '{pip} install --no-build-isolation {stack}'
TOOLS = "{pip} install 'setuptools<82' wheel ninja psutil packaging"
REBUILD = (
    '{pip} install --force-reinstall --no-cache-dir --no-deps --no-build-isolation '
    '{mmcv}'
)

TRAPS = (
    Trap(
        'fail',
        'torch is missing, too old or broken',
        when.unusable_torch,
        f'{{pip}} install torch==2.13.0, then, for OpenMMLab, compile mmcv for it: '
        f'{TOOLS}; {REBUILD}',
    ),
    Trap(
        'fail',
        "mmssm's own operators do not import",
        when.broken('backends', ('torch',)),
        'in the project folder: {pip} install --no-deps --no-build-isolation -e .',
    ),
    Trap(
        'fail',
        'numpy is missing or broken',
        when.unusable_numpy,
        '{pip} install --force-reinstall numpy==2.2.6',
    ),
    Trap(
        'fail',
        'packages of both OpenMMLab forks are installed',
        when.both_forks,
        f'{{pip}} uninstall -y {" ".join(when.ONEDL + when.ORIGINAL)}; {STACK}',
    ),
    Trap(
        'fail',
        'a package was compiled for another numpy',
        when.numpy_abi,
        '{pip} install --force-reinstall --no-cache-dir numpy==2.2.6 pycocotools '
        f'opencv-python-headless==4.12.0.88; if mmcv is among them: {REBUILD}',
    ),
    Trap(
        'fail',
        'OpenCV does not load (libGL is missing on machines without a display)',
        when.with_openmmlab(when.broken('cv2', ('numpy',))),
        '{pip} install --force-reinstall --no-deps opencv-python-headless==4.12.0.88',
    ),
    Trap(
        'fail',
        'torchvision does not fit torch (mmengine imports it where it is)',
        when.with_openmmlab(when.broken_torchvision),
        '{pip} uninstall -y torchvision (nothing here needs it)',
    ),
    Trap(
        'fail',
        'mmengine is missing or broken',
        when.with_openmmlab(when.broken('mmengine', ('torch', 'numpy', 'cv2'))),
        STACK,
    ),
    Trap(
        'fail',
        'mmcv is missing or broken',
        when.with_openmmlab(when.broken('mmcv', ('numpy', 'cv2', 'mmengine'))),
        f'{TOOLS}; {STACK}',
    ),
    Trap(
        'fail',
        "mmcv's compiled operators are missing or broken",
        when.with_openmmlab(when.mmcv_without_ops),
        f'{{pip}} uninstall -y mmcv-lite; {TOOLS}; {REBUILD}',
    ),
    Trap(
        'fail',
        'mmcv cannot use the GPU',
        when.mmcv_without_cuda,
        f'with nvcc installed and CUDA_HOME set: FORCE_CUDA=1 {REBUILD}; or train on '
        'the CPU: export CUDA_VISIBLE_DEVICES=',
    ),
    Trap(
        'fail',
        'torch cannot compute on a GPU that it sees',
        when.unusable_gpu,
        'install the build of torch for its compute capability and driver, or hide '
        'the GPU: export CUDA_VISIBLE_DEVICES=',
    ),
    Trap(
        'fail',
        'neither detection nor segmentation',
        when.with_openmmlab(when.no_head),
        STACK,
    ),
    Trap('fail', 'mmdet does not import', when.broken_head('mmdet'), STACK),
    Trap(
        'fail',
        'mmsegmentation needs ftfy and regex without requiring them',
        when.missing_text_packages,
        '{pip} install ftfy regex',
    ),
    Trap('fail', 'mmseg does not import', when.broken_head('mmseg'), STACK),
    Trap(
        'warn',
        'detection configs cannot be used',
        when.missing_head('mmdet', 'mmseg'),
        STACK,
    ),
    Trap(
        'warn',
        'segmentation configs cannot be used',
        when.missing_head('mmseg', 'mmdet'),
        STACK,
    ),
    Trap(
        'warn',
        'the original mmengine cannot load its own checkpoints with torch from 2.6',
        when.weights_only,
        'use mmssm-train and mmssm-test, which allow for it; for other tools, and only '
        'with files you trust: export TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1',
    ),
    Trap(
        'warn',
        "pkg_resources is gone: no `_base_ = 'mmdet::...'`, no openmim, no mmcv 2.1.0",
        when.no_pkg_resources,
        "{pip} install 'setuptools<82'",
    ),
    Trap(
        'warn',
        'there is an NVIDIA driver, and torch does not use it',
        when.idle_gpu,
        'install the build of torch for the CUDA version that nvidia-smi shows, then '
        f'{REBUILD}',
    ),
    Trap(
        'warn',
        'two versions of OpenCV share the folder cv2',
        when.mixed_opencv,
        '{pip} install --force-reinstall --no-deps opencv-python==4.12.0.88; '
        '{pip} install --force-reinstall --no-deps opencv-python-headless==4.12.0.88',
    ),
    Trap(
        'warn',
        "Triton's interpreter, which tests the optional kernels, fails from numpy 2.4",
        when.new_numpy,
        '{pip} install numpy==2.2.6',
    ),
    Trap(
        'warn',
        'mim, and tools outside the project folder, do not find mmssm',
        when.with_openmmlab(when.incomplete_mmssm),
        'in the project folder: {pip} install --no-deps --no-build-isolation -e .',
    ),
    Trap(
        'note',
        'OpenMMLab, which trains and tests detectors and segmenters by configs, is not '
        'here; layers, backbones and create_model do without',
        when.no_openmmlab,
        "to add it: {pip} install 'mmssm[onedl]'",
    ),
    Trap(
        'note',
        'numpy, which drawing and exchange with arrays need, is not here',
        when.no_numpy,
        '{pip} install numpy==2.2.6',
    ),
    Trap(
        'note',
        'a checkpoint that safe loading refuses is unpickled all the same, which can '
        'run code',
        when.onedl,
        'load files of strangers by init_cfg of a backbone of mmssm, or convert them '
        'with tools/model_converters: neither runs code',
    ),
    Trap(
        'note',
        "`_base_ = 'mmssm::...'` and read_base on mmdet's configs are impossible",
        when.any_stack,
        "write relative paths, as mmssm's own configs do",
    ),
    Trap(
        'note',
        "`_base_ = 'mmseg::...'` does not work",
        when.onedl,
        'write a relative path, or the path of the config in mmseg/.mim/configs',
    ),
    Trap(
        'note',
        'mmdet.digit_version and mmdet.version_info are gone',
        when.onedl,
        'from mmengine.utils import digit_version',
    ),
    Trap(
        'note',
        "mmdet's and mmseg's layer-wise learning-rate decay raises NotImplementedError "
        'for most backbones, these included',
        when.any_stack,
        'leave out `constructor` of optim_wrapper',
    ),
    Trap(
        'note',
        "`--launcher pytorch` of mmdet's and mmseg's own tools dies without CUDA",
        when.with_openmmlab(when.without_gpu),
        'use tools/dist_train.sh and tools/dist_test.sh, which start gloo',
    ),
    Trap(
        'note',
        '`--amp` means float16 with loss scaling',
        when.with_openmmlab(when.with_gpu),
        'for bfloat16: --cfg-options optim_wrapper.type=AmpOptimWrapper '
        'optim_wrapper.dtype=bfloat16',
    ),
)


def judge(facts: Facts) -> list[Finding]:
    """Every trap with what was found."""
    original = when.present(facts, when.ORIGINAL) and not when.onedl(facts)
    stack = PINS['openmmlab' if original else 'onedl']
    mmcv = next(word for word in stack.split() if 'mmcv==' in word)
    names = {'pip': f'{facts.executable} -m pip', 'mmcv': mmcv, 'stack': stack}
    return [
        Finding(trap.level, trap.title, trap.applies(facts), trap.fix.format(**names))
        for trap in TRAPS
    ]
