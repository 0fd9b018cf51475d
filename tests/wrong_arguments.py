"""Random wrong arguments for every backbone, and which of them are not explained.

    python tests/wrong_arguments.py 3000 [SEED]  # the last line is JSON

A mutant is explained when it works, or when the error names the argument.
"""

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from mmssm.layers.arguments import Rule
from mmssm.registry import BACKBONES, MODELS

STAGES = {'channels': (8, 16, 24, 32), 'depths': (1, 1, 1, 1)}
SWIN = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4)
WORKING: dict[str, dict[str, Any]] = {
    'ConvNeXt': {'arch': STAGES},
    'Mega': {
        'arch': {
            'channels': (8,) * 4,
            'depths': (1, 1, 1, 1),
            'patch': 16,
            'shared': 4,
            'expanded': 16,
            'hidden': 16,
        }
    },
    'SSM2DHost': {'host': {'type': 'mmdet.SwinTransformer', **SWIN}},
    'MILA': {'arch': {**STAGES, 'heads': 2}},
    'SpatialMamba': {'arch': STAGES},
    'VMamba': {'arch': {**STAGES, 'expand': 1}},
    'VMINet': {'arch': {**STAGES, 'expand': 2}},
}
SCALARS = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**12, 1.5, -0.5, 1e-9, 1e9),
    *(float('nan'), float('inf'), '', 'x', 'tiny', b'x', object(), 'mean', 'identity'),
]
VALUES = [
    *SCALARS,
    *((), [], (0,), (1, 2), (-1,), (0, 1, 2, 3), (3, 2), (0, 0), [None], ('a', 'b')),
    *({}, {'type': 'BN'}, {'type': 'Nope'}, {'type': 3}, {'typ': 'BN'}, {1: 2}),
    *({'type': 'GN', 'num_groups': 3}, {'type': 'GN', 'num_groups': 'x'}),
    *({'type': 'BN', 'eps': float('nan')}, {'type': 'LN', 'esp': 1e-6}),
    *({'type': 'Pretrained'}, {'type': 'Pretrained', 'checkpoint': '/nope.pth'}),
    *({'type': 'Constant', 'val': 0}, {'type': 'Constant', 'layer': 3}),
    *({'channels': 8, 'depths': (1, 1)}, {'channels': 8, 'depths': (0, 1)}),
]


def mutants(count: int, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(backbone, argument, all arguments), of which the named one may be wrong."""
    draw = random.Random(seed)
    tables: dict[str, dict[str, Rule]] = {
        b.__name__: getattr(b, 'rules', None) or b.__init__.rules for b in BACKBONES
    }
    for _ in range(count):
        name = draw.choice(sorted(WORKING))
        given = dict(WORKING[name])
        inner = [key for key in given if draw.random() < 0.2]
        if inner:
            argument = inner[0]
            key = draw.choice(sorted(given[argument]))
            given[argument] = {**given[argument], key: draw.choice(VALUES)}
        else:
            argument = draw.choice(sorted(tables[name]))
            given[argument] = draw.choice(VALUES)
        yield name, argument, given


def unclear(count: int, seed: int = 0) -> list[str]:
    """The mutants that end otherwise than in an error which names the argument."""
    found = []
    for name, argument, given in mutants(count, seed):
        try:
            _run(name, given)
        except (ValueError, TypeError, FileNotFoundError) as error:
            # a file that is not there, fewer stages than the default out_indices name
            words = (argument, '/nope.pth', 'out_indices is (0, 1, 2, 3)')
            if not any(word in str(error) for word in words):
                found.append(f'{name}: {argument}={given[argument]!r}: {error!r}')
        except Exception as error:  # noqa: BLE001 (every other one is reported)
            found.append(f'{name}: {argument}={given[argument]!r}: {error!r}')
    return found


def _run(name: str, given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MODELS.build({'type': f'mmssm.{name}', **given})
    model.eval()
    model.init_weights()
    with torch.no_grad():
        outputs = model(torch.randn(1, given.get('in_channels', 3), 33, 40))
    if not all(y.isfinite().all() for y in outputs):
        raise AssertionError('outputs are not finite')


if __name__ == '__main__':
    lines = unclear(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print(*lines, json.dumps(lines), sep='\n')  # noqa: T201
