"""Everything downstairs with PyTorch alone, in a process of its own.

Started by test_architecture.py.  No package but torch and what torch requires can be
imported, NumPy and Triton neither.  Imports every file that is not OpenMMLab's, builds
and trains every backbone, and prints the names of what it imported and ran as JSON.
"""

import importlib.metadata
import inspect
import json
import re
import sys
import tempfile
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UPSTAIRS = ('openmmlab', 'registry.py', '.mim')


def plain(name: str) -> str:
    """The name of a distribution as indices compare it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def required(distribution: str) -> set[str]:
    """The distribution with all that it requires, and so on."""
    found, waiting = set(), [distribution]
    while waiting:
        name = plain(waiting.pop())
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.match(r'[\w.-]+', x)[0] for x in lines if 'extra ==' not in x]
    return found - {'numpy', 'triton'}


def allowed() -> set[str]:
    """Roots of modules: the standard library, torch, and this package."""
    torch = required('torch')
    homes = importlib.metadata.packages_distributions().items()
    roots = {root for root, names in homes if torch & {plain(name) for name in names}}
    return roots | sys.stdlib_module_names | {'jinja2', 'typing_extensions', 'mmssm'}


class Fence(MetaPathFinder):
    """A finder for which everything but the allowed roots is not installed."""

    def __init__(self, finder: MetaPathFinder, roots: set[str]) -> None:
        self.finder = finder
        self.roots = roots

    def find_spec(
        self, name: str, path: object = None, target: object = None
    ) -> ModuleSpec | None:
        root = name.partition('.')[0]
        # sysconfig has a file for each platform
        if root not in self.roots and not root.startswith('_sysconfigdata'):
            return None
        return self.finder.find_spec(name, path, target)


def files() -> list[str]:
    """The modules of the package that need torch at most; Triton's kernels need it."""
    names = []
    for path in sorted((ROOT / 'mmssm').rglob('*.py')):
        parts = path.relative_to(ROOT).parts
        if parts[1] in UPSTAIRS or path.stem.startswith('triton'):
            continue
        names.append('.'.join(parts).removesuffix('.py').removesuffix('.__init__'))
    return names


def backbones(modules: list) -> list[type]:
    """Every backbone with a table of architectures that the modules define."""
    from mmssm.backbones import HierarchicalBackbone

    return [
        value
        for module in modules
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, HierarchicalBackbone)
        and value.__module__ == module.__name__
        and hasattr(value, 'zoo')
    ]


def train(backbone: type) -> None:
    """A forward and a backward pass of the first architecture at its shallowest."""
    import torch

    arch = dict(next(iter(backbone.zoo.values())))
    model = backbone(dict(arch, depths=(1,) * len(arch['depths'])))
    outputs = model(torch.randn(2, 3, 49, 70))
    sum(y.square().mean() for y in outputs).backward()
    lost = [name for name, p in model.named_parameters() if p.grad is None]
    assert not lost, f'{backbone.__name__}: no gradient for {lost}'


def build() -> None:
    """What `import mmssm` promises: models by name, counts, fusing, files."""
    import torch

    import mmssm
    from mmssm.weights import load_file, save_file

    families = {name.rpartition('_')[0]: name for name in mmssm.list_models()}
    for name in families.values():
        model = mmssm.create_model(name, num_classes=5).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    maps = mmssm.create_model(families['convnext'], features_only=True)
    assert mmssm.count_macs(maps, (1, 3, 64, 64)).total > 0
    mmssm.fuse_for_inference(maps.eval())
    host = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.ReLU())
    mmssm.add_ssm2d(host, modules={'0': 'BCHW'}, ssm2d={'num_states': 2})
    host(torch.randn(1, 3, 20, 28)).sum().backward()
    with tempfile.TemporaryDirectory() as folder:
        save_file({'state_dict': maps.state_dict()}, f'{folder}/a.pth')
        weights = load_file(f'{folder}/a.pth')['state_dict']
    assert weights.keys() == maps.state_dict().keys()


def main() -> None:
    roots = allowed()
    sys.meta_path[:] = [Fence(finder, roots) for finder in sys.meta_path]
    modules = [import_module(name) for name in files()]
    found = backbones(modules)
    for backbone in found:
        train(backbone)
    build()
    ran = [backbone.__name__ for backbone in found]
    print(json.dumps({'imported': [m.__name__ for m in modules], 'trained': ran}))


if __name__ == '__main__':
    main()
