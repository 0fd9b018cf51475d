"""When each trap applies: functions of the facts that return the detail, or None."""

from collections.abc import Callable

from mmssm.openmmlab.doctor.facts import Facts

Condition = Callable[[Facts], str | None]

OLDEST_TORCH = (
    2,
    6,
)  # older ones run code that a checkpoint holds, weights_only or not
ONEDL = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation')
ORIGINAL = ('mmengine', 'mmcv', 'mmcv-lite', 'mmdet', 'mmsegmentation')
# Signs of a package that was compiled for another numpy.
NUMPY_ABI = (
    'compiled using NumPy 1.x',
    'numpy.dtype size changed',
    '_ARRAY_API not found',
    'numpy.core.multiarray failed to import',
)
COMPILED = ('torch', 'cv2', 'pycocotools', 'mmcv', 'mmcv.ops', 'mmdet', 'mmseg')


def present(facts: Facts, names: tuple[str, ...]) -> list[str]:
    """Those of the distributions that are installed."""
    return [name for name in names if name in facts.installed]


def has_openmmlab(facts: Facts) -> bool:
    """Some of OpenMMLab is there, so that it is meant to be used."""
    names = ('mmengine', 'mmcv', 'mmdet', 'mmseg')
    missing = all(facts.probes[name].is_missing(name) for name in names)
    return not missing or bool(present(facts, ONEDL + ORIGINAL))


def with_openmmlab(condition: Condition) -> Condition:
    """The condition, where OpenMMLab is used."""

    def applies(facts: Facts) -> str | None:
        return condition(facts) if has_openmmlab(facts) else None

    return applies


def no_openmmlab(facts: Facts) -> str | None:
    return None if has_openmmlab(facts) else 'not installed'


def unusable_numpy(facts: Facts) -> str | None:
    """Broken; or missing where OpenMMLab needs it."""
    probe = facts.probes['numpy']
    if probe.is_missing('numpy') and not has_openmmlab(facts):
        return None
    return probe.error


def no_numpy(facts: Facts) -> str | None:
    missing = facts.probes['numpy'].is_missing('numpy')
    return 'not installed' if missing and not has_openmmlab(facts) else None


def broken(module: str, needs: tuple[str, ...] = ()) -> Condition:
    """`module` does not import, although all that it needs does."""

    def applies(facts: Facts) -> str | None:
        if any(facts.probes[name].error for name in needs):
            return None
        return facts.probes[module].error

    return applies


def broken_head(module: str) -> Condition:
    """mmdet or mmseg is there and does not import, and nothing beneath explains it."""

    def applies(facts: Facts) -> str | None:
        probe = facts.probes[module]
        beneath = facts.probes['mmcv.ops'].error or numpy_abi(facts)
        return None if beneath or probe.is_missing(module) else probe.error

    return applies


def missing_head(module: str, other: str) -> Condition:
    """Of mmdet and mmseg, only `module` is missing."""

    def applies(facts: Facts) -> str | None:
        lacks = facts.probes[module].is_missing(module)
        if lacks and not facts.probes[other].is_missing(other):
            return f'{module} is not installed'
        return None

    return applies


def no_head(facts: Facts) -> str | None:
    if all(facts.probes[name].is_missing(name) for name in ('mmdet', 'mmseg')):
        return 'neither mmdet nor mmseg is installed'
    return None


def both_forks(facts: Facts) -> str | None:
    onedl, original = present(facts, ONEDL), present(facts, ORIGINAL)
    if onedl and original:
        return f'{", ".join(onedl)} beside {", ".join(original)}'
    return None


def unusable_torch(facts: Facts) -> str | None:
    if facts.probes['torch'].error:
        return facts.probes['torch'].error
    if facts.version('torch') < OLDEST_TORCH:
        oldest = '.'.join(map(str, OLDEST_TORCH))
        return f'torch {facts.installed.get("torch")} is older than {oldest}'
    return None


def numpy_abi(facts: Facts) -> str | None:
    if facts.probes['numpy'].is_missing('numpy'):
        return None
    victims = []
    for name in COMPILED:
        probe = facts.probes[name]
        if any(sign in f'{probe.error} {probe.messages}' for sign in NUMPY_ABI):
            victims.append(name)
    if victims:
        return f'{", ".join(victims)} with numpy {facts.installed.get("numpy")}'
    bridge = facts.probes['torch'].result.get('numpy_bridge')
    return f'torch: {bridge}' if bridge else None


def mmcv_without_ops(facts: Facts) -> str | None:
    error = broken('mmcv.ops', ('torch', 'mmcv'))(facts)
    if error and 'mmcv-lite' in facts.installed:
        return f'mmcv-lite has none ({error})'
    if error and ('undefined symbol' in error or 'cannot open shared' in error):
        return f'compiled for another torch ({error})'
    return error


def mmcv_without_cuda(facts: Facts) -> str | None:
    compiled = facts.probes['mmcv.ops'].result.get('cuda')
    if facts.gpus and compiled == 'not available':
        return f'torch sees {facts.gpus[0]["name"]}; mmcv was compiled for the CPU only'
    return None


def unusable_gpu(facts: Facts) -> str | None:
    errors = [f'{gpu["name"]}: {gpu["error"]}' for gpu in facts.gpus if gpu['error']]
    return '; '.join(errors) or None


def idle_gpu(facts: Facts) -> str | None:
    if facts.probes['torch'].error or not facts.nvidia_driver or facts.gpus:
        return None
    cuda = facts.probes['torch'].result['cuda']
    return f'torch for CUDA {cuda} finds none' if cuda else 'torch is a build for CPUs'


def broken_torchvision(facts: Facts) -> str | None:
    probe = facts.probes['torchvision']
    return None if probe.is_missing('torchvision') else probe.error


def missing_text_packages(facts: Facts) -> str | None:
    lacking = [name for name in ('ftfy', 'regex') if name not in facts.installed]
    if 'mmsegmentation' in facts.installed and lacking:
        return f'{" and ".join(lacking)} not installed'
    return None


def weights_only(facts: Facts) -> str | None:
    if 'mmengine' in facts.installed and facts.version('torch') >= (2, 6):
        return (
            f'mmengine {facts.installed["mmengine"]}, torch {facts.installed["torch"]}'
        )
    return None


def no_pkg_resources(facts: Facts) -> str | None:
    users = present(facts, ('mmengine', 'openmim'))
    if users and facts.probes['pkg_resources'].error:
        setuptools = facts.installed.get('setuptools', 'missing')
        return f'setuptools {setuptools}, for {" and ".join(users)}'
    return None


def mixed_opencv(facts: Facts) -> str | None:
    names = ('opencv-python', 'opencv-python-headless')
    found = [f'{name} {facts.installed[name]}' for name in present(facts, names)]
    if len({line.split()[1] for line in found}) == 2:
        return ', '.join(found)
    return None


def new_numpy(facts: Facts) -> str | None:
    if 'triton' in facts.installed and facts.version('numpy') >= (2, 4):
        return f'numpy {facts.installed["numpy"]}'
    return None


def incomplete_mmssm(facts: Facts) -> str | None:
    if 'mmssm' not in facts.installed:
        return 'mmssm is not installed in this Python'
    missing = facts.probes['mmssm'].result.get('missing', [])
    return f'mmssm/.mim lacks {", ".join(missing)}' if missing else None


def onedl(facts: Facts) -> str | None:
    version = facts.installed.get('onedl-mmengine')
    return f'onedl-mmengine {version}' if version else None


def any_stack(facts: Facts) -> str | None:
    version = facts.probes['mmengine'].result.get('version')
    return f'mmengine {version}' if version else None


def without_gpu(facts: Facts) -> str | None:
    return None if facts.gpus else 'torch sees no GPU'


def with_gpu(facts: Facts) -> str | None:
    return facts.gpus[0]['name'] if facts.gpus else None
