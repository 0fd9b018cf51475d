"""Operators on any input: hypothesis draws calls, the naive twins say what is right."""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor

from mmssm import ops
from mmssm.ops import dispatch
from tools.benchmarks.ops import OPS
from tools.reliability.check import Check, Clock, Outcome

CASES = 10_000
DOUBLE = 1e-10  # of the largest value
FACTORS = {32: 32, 16: 8}  # by bits, of the error of the definition in that dtype
FLOOR = 1e-4  # smaller values are what is left of larger ones, such as a gradient's
LONGEST = 40  # rows and columns
# Positions of a map: the twins loop over them, one of them over all pairs.
AREA, AREAS = 240, {'linear_attention': 48}
# Of inputs, by number, that are defined up to a modulus: a little beyond it
BOUNDS = {('ssm2d', 1): 1.25}
DTYPES = {
    'float64': (torch.float64,),
    'float32': (torch.float32,),
    'bfloat16': (torch.bfloat16,),
    'float16': (torch.float16,),
    'mixed': (torch.float32, torch.bfloat16, torch.float16),
}
LAYOUTS = ('contiguous', 'channels last', 'sliced', 'transposed', 'expanded')
VALUES = ('normal', 'normal', 'normal', 'zeros', 'subnormal', 'small', 'large')
MODES = (
    *('plain', 'plain', 'plain', 'no_grad', 'inference_mode', 'autocast', 'twice'),
    *('shared', 'vmap', 'jvp', 'second derivative'),
)


def _norm_inputs(batch: int, channels: int, height: int, width: int) -> list[Tensor]:
    x = torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)
    return [x, *torch.randn(2, channels)]


INPUTS = {name: op.inputs for name, op in OPS.items()} | {'channel_norm': _norm_inputs}


class Call(NamedTuple):
    """A call of an op, as hypothesis draws and shrinks it.

    size: batch, channels, height, width.  values, layouts, needs: for each input.
    """

    op: str
    backend: str | None
    size: tuple[int, int, int, int]
    dtype: str
    mode: str
    values: tuple[str, ...]
    layouts: tuple[str, ...]
    needs: tuple[bool, ...]
    seed: int


def checks() -> list[Check]:
    """One for each op."""
    return [
        Check('Numerics', f'`{name}`', partial(examine, name), CASES) for name in INPUTS
    ]


@st.composite
def calls(draw: st.DrawFn, name: str) -> Call:
    """Any call of an op on this machine."""
    most = AREAS.get(name, AREA)
    height = draw(st.one_of(st.integers(1, 6), st.integers(1, LONGEST)))
    width = draw(st.integers(1, max(1, min(LONGEST, most // height))))
    batch, channels = draw(st.integers(1, 2)), 4 * draw(st.integers(1, 2))
    count = len(INPUTS[name](1, 4, 2, 2))

    def each(choices: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.sampled_from(choices)) for _ in range(count))

    backends = [i.name for i in dispatch.registered()[name] if i.name != 'triton']
    return Call(
        op=name,
        backend=draw(st.sampled_from([None, *backends[:-1]])),
        size=(batch, channels, height, width),
        dtype=draw(st.sampled_from(list(DTYPES))),
        mode=draw(st.sampled_from(MODES)),
        values=each(VALUES),
        layouts=each(LAYOUTS),
        needs=each((True, True, False)),
        seed=draw(st.integers(0, 10**6)),
    )


def examine(name: str, clock: Clock, seed: int, most: int = CASES) -> Outcome:
    """Draw calls of an op until one fails, the time is over or there were enough."""
    modes: Counter[str] = Counter()

    def law(call: Call) -> None:
        if clock.left or not modes.total():
            modes[f'{call.mode}: {hold(call)}'] += 1

    failures = []
    for start in range(0, most, 500):
        if start and not clock.left:
            break
        try:
            _drawn(law, name, seed + start, min(500, most - start))()
        except Exception as error:  # noqa: BLE001 (whatever a call ends with is told)
            notes = ' '.join(getattr(error, '__notes__', []))
            failures.append(f'{type(error).__name__}: {error} {notes}')
            break
    refused = sum(n for words, n in modes.items() if words.endswith('refused'))
    remark = f'{refused} refused by name' if refused else ''
    return Outcome(modes.total(), failures, remark)


def _drawn(
    law: Callable[[Call], None], name: str, seed: int, count: int
) -> Callable[[], None]:
    settings = hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
    )
    return hypothesis.seed(seed)(settings(hypothesis.given(calls(name))(law)))


def hold(call: Call) -> str:
    """'right' or 'refused'; AssertionError for anything else."""
    inputs = prepare(call)
    run = partial(getattr(ops, call.op), backend=call.backend)
    naive = partial(getattr(ops, call.op), backend='naive')
    if call.mode == 'shared':
        inputs = _shared(inputs)
    before = [x.detach().clone() for x in inputs]
    law = LAWS.get(call.mode, _values_and_gradients)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return law(call, run, naive, inputs)
    finally:  # a changed input explains whatever else is wrong
        for number, (x, was) in enumerate(zip(inputs, before, strict=True)):
            assert torch.equal(x.detach(), was), f'input {number} was changed'


def prepare(call: Call) -> list[Tensor]:
    """The inputs of a call, leaves of no graph."""
    torch.manual_seed(call.seed)
    inputs = INPUTS[call.op](*call.size)
    dtypes = DTYPES[call.dtype]
    drawn = []
    for number, (x, kind, layout) in enumerate(
        zip(inputs, call.values, call.layouts, strict=True)
    ):
        dtype = dtypes[(call.seed + number) % len(dtypes)]
        bound = BOUNDS.get((call.op, number), math.inf)
        x = _valued(x, kind).clamp(-bound, bound)
        drawn.append(_laid_out(x.to(dtype), layout))
    return drawn


def _valued(x: Tensor, kind: str) -> Tensor:
    """The numbers of an input made extreme; the sign, which may matter, is kept."""
    if kind == 'normal':
        return x
    factor = {'zeros': 0.0, 'subnormal': 1e-40, 'small': 1e-4, 'large': 50.0}[kind]
    return x * factor


def _laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == 'channels last' and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 'sliced' and x.dim():
        wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), math.nan)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == 'transposed' and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == 'expanded' and x.dim() > 2:
        return x[:1].contiguous().expand_as(x)
    return x.contiguous()


def _shared(inputs: list[Tensor]) -> list[Tensor]:
    """Inputs of one shape and dtype are one tensor."""
    seen: dict[tuple, Tensor] = {}
    return [seen.setdefault((x.shape, x.dtype), x) for x in inputs]


def _doubled(inputs: list[Tensor]) -> list[Tensor]:
    """In double; what is one tensor stays one."""
    found = {id(x): x.double() for x in inputs}
    return [found[id(x)] for x in inputs]


# The laws.


def _values_and_gradients(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    fast = _passed(call, run, inputs)
    slow = _passed(call, naive, inputs)
    exact = _passed(call, naive, _doubled(inputs))
    low = {x.dtype for x in inputs} if call.dtype == 'mixed' else ()
    eps = max((torch.finfo(dtype).eps for dtype in low), default=0.0)
    for name, values in fast.items():
        try:
            _agree(name, values, slow[name], exact[name], eps)
        except AssertionError:
            if values.numel() >= fast['result'].numel():
                raise
            # A sum whose terms cancel, such as the gradient of a scalar, may be wrong
            # by the rounding of a term: as large as it is where they do not cancel
            terms = _passed(call, naive, _doubled(inputs), cancel=False)[name]
            least = terms.abs().max().item()
            _agree(name, values, slow[name], exact[name], eps, least)
    return 'right'


def _passed(
    call: Call,
    run: Callable[..., Tensor],
    inputs: list[Tensor],
    cancel: bool = True,
) -> dict[str, Tensor]:
    """The result and the gradients that are asked for; leaves that are one stay one.

    cancel: false for random signs of the result's gradient, which runs from -1 to 1.
    """
    leaves: dict[int, Tensor] = {}
    for x, need in zip(inputs, call.needs, strict=True):
        if id(x) not in leaves:
            leaves[id(x)] = x.detach().requires_grad_(need)
    given = [leaves[id(x)] for x in inputs]
    with MANAGERS.get(call.mode, nullcontext)():
        y = run(*given)
    found = {'result': y}
    if not y.requires_grad:
        return found
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    if not cancel:
        cotangent *= torch.randn(y.shape).sign()
    wanted = [x for x in leaves.values() if x.requires_grad]
    grads = torch.autograd.grad(
        y, wanted, cotangent.to(y.dtype), allow_unused=True, materialize_grads=True
    )
    for number, (x, grad) in enumerate(zip(wanted, grads, strict=True)):
        assert grad.dtype == x.dtype, f'gradient {number}: {grad.dtype} of a {x.dtype}'
        assert grad.shape == x.shape, f'gradient {number}: {grad.shape} for {x.shape}'
        found[f'gradient {number}'] = grad
    return found


def _agree(
    name: str,
    fast: Tensor,
    naive: Tensor,
    exact: Tensor,
    eps: float = 0.0,
    least: float = FLOOR,
) -> None:
    """As exact as the definition: to 1e-10 in double, to its own error elsewhere.

    eps: of the inputs, where it is larger than the result's.  least: the value that
    errors are divided by, where all are smaller.
    """
    assert fast.shape == exact.shape, f'{name}: {fast.shape}, expected {exact.shape}'
    assert fast.dtype == naive.dtype, f'{name}: {fast.dtype}, naively {naive.dtype}'
    kind = torch.finfo(fast.dtype)
    fast, naive, exact = (t.detach().double() for t in (fast, naive, exact))
    if not naive.isfinite().all() or exact.abs().max() > kind.max / 8:
        return  # nothing that this dtype can hold
    assert fast.isfinite().all(), f'{name} is not finite, and finite by definition'
    scale = max(exact.abs().max().item(), least, FLOOR)
    error = (fast - exact).abs().max().item() / scale
    own = (naive - exact).abs().max().item() / scale
    allowed = (
        DOUBLE if kind.bits == 64 else FACTORS[kind.bits] * max(own, kind.eps, eps)
    )
    assert error <= allowed, f'{name}: error {error:.1e}, allowed {allowed:.1e}'


def _same_twice(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    first, second = (_passed(call, run, inputs) for _ in range(2))
    for name, values in first.items():
        same = torch.equal(values.nan_to_num(), second[name].nan_to_num())
        assert same, f'{name} differs from one run to the next'
    return 'right'


def _under_autocast(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    """Autocast changes nothing: the ops choose their precision themselves."""
    inside = _passed(call, run, inputs)
    outside = _passed(call._replace(mode='plain'), run, inputs)
    for name, values in inside.items():
        assert values.dtype == outside[name].dtype, f'{name}: {values.dtype}'
        same = torch.equal(values.nan_to_num(), outside[name].nan_to_num())
        assert same, f'{name} is another under autocast'
    return 'right'


def _batched(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    inputs = _doubled(inputs)
    twice = [torch.stack([x, x]) for x in inputs]
    try:
        found = torch.func.vmap(run)(*twice)
    except (NotImplementedError, RuntimeError) as error:
        return _named(call, error)
    exact = naive(*inputs)
    for part in found:
        _agree('result of vmap', part, exact, exact)
    return 'right'


def _forward_mode(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    # torch makes no dual of an expanded tensor
    inputs = tuple(x.contiguous() for x in _doubled(inputs))
    tangents = tuple(torch.ones_like(x) for x in inputs)
    try:
        _, found = torch.func.jvp(run, inputs, tangents)
    except (NotImplementedError, RuntimeError) as error:
        return _named(call, error)
    _, exact = torch.func.jvp(naive, inputs, tangents)
    _agree('tangent', found, exact, exact)
    return 'right'


def _second_derivative(
    call: Call,
    run: Callable[..., Tensor],
    naive: Callable[..., Tensor],
    inputs: list[Tensor],
) -> str:
    def twice(function: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.detach().double().requires_grad_() for x in inputs]
        # of a square, so that the second derivative is no zero
        grads = torch.autograd.grad(
            function(*leaves).square().sum(), leaves, create_graph=True
        )
        total = sum(g.square().sum() for g in grads)
        found = torch.autograd.grad(total, leaves, allow_unused=True)
        return [
            torch.zeros_like(x) if g is None else g
            for x, g in zip(leaves, found, strict=True)
        ]

    try:
        found = twice(run)
    except (NotImplementedError, RuntimeError) as error:
        return _named(call, error)
    for number, (fast, exact) in enumerate(zip(found, twice(naive), strict=True)):
        _agree(f'second derivative {number}', fast, exact, exact)
    return 'right'


def _named(call: Call, error: Exception) -> str:
    """A refusal names the operator and what it cannot do."""
    text = str(error)
    words = ('derivative', 'vmap', 'batching rule', 'differentia')
    assert any(word in text for word in words), f'unclear refusal: {text[:300]}'
    return 'refused'


MANAGERS: dict[str, Callable[[], AbstractContextManager]] = {
    'no_grad': torch.no_grad,
    'inference_mode': torch.inference_mode,
    'autocast': partial(torch.autocast, 'cpu', torch.bfloat16),
}
LAWS: dict[str, Callable[..., str]] = {
    'twice': _same_twice,
    'autocast': _under_autocast,
    'vmap': _batched,
    'jvp': _forward_mode,
    'second derivative': _second_derivative,
}
