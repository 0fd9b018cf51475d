"""Whole networks beside their peers: images per second and memory."""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from mmssm.backbones import MILA, SpatialMamba, VMamba, VMINet
from mmssm.export import fuse_for_inference
from mmssm.hosts import add_ssm2d
from tools.benchmarks.case import Setting, passes
from tools.benchmarks.gpu.bench import Bench
from tools.benchmarks.gpu.cases import plain_torch
from tools.benchmarks.gpu.clock import pass_milliseconds
from tools.benchmarks.gpu.ledger import Row, Task
from tools.benchmarks.gpu.profiles import as_text, profiled
from tools.benchmarks.gpu.scale import Size

MODES = ('inference', 'training')
T = 'spatialmamba-t'
FIRST = ('swin-t', T)  # of these all sizes, before the others
DEPENDS = ('scan', 'observe', 'gated norm', 'conv + SiLU', 'x + conv')
Build = Callable[[Size], nn.Module]


def _timm(name: str, size: Size) -> nn.Module:
    """Without head and pooling; Swin is built for one size of images."""
    import timm

    options: dict[str, object] = dict(num_classes=0, global_pool='')
    if name.startswith('swin'):
        options['img_size'] = (size.height, size.width)
    return timm.create_model(name, **options)


def _with_ssm2d(size: Size) -> nn.Module:
    model = _timm('swin_tiny_patch4_window7_224', size)
    add_ssm2d(model)
    return model


def _ours(bench: Bench, arch: object) -> nn.Module:
    """Drawn on the device, which is quicker there."""
    with torch.device(bench.device):
        return SpatialMamba(arch)


def builders(bench: Bench) -> dict[str, Build]:
    """Peers and the smallest of ours first."""
    archs = bench.scale.archs
    found: dict[str, Build] = {}
    if bench.on_gpu and find_spec('timm'):
        found['swin-t'] = partial(_timm, 'swin_tiny_patch4_window7_224')
        found['convnext-t'] = partial(_timm, 'convnext_tiny')
    found[T] = lambda size: _ours(bench, archs['t'])
    if bench.on_gpu:
        found['vminet-s'] = lambda size: VMINet('s')
        found['mila-t'] = lambda size: MILA('tiny')
        found['vmamba-t'] = lambda size: VMamba('tiny')
        if find_spec('timm'):
            found['swin-t-ssm2d'] = _with_ssm2d
    for key in [k for k in archs if k != 't']:
        found[f'spatialmamba-{key}'] = lambda size, key=key: _ours(bench, archs[key])
    return found


def tasks(bench: Bench) -> Iterator[Task]:
    """Every network at every size, captured graphs, and plain torch."""
    known = builders(bench)
    rest = [name for name in known if name not in FIRST]
    for names in ([name for name in known if name in FIRST], rest):
        for index, size in enumerate(bench.scale.images):
            for name in names:
                for mode in MODES:
                    run = partial(measured, bench, known[name], size, mode)
                    words = f'{name}, {size.words}, {mode}'
                    yield Task('networks', words, _flagged(bench, name, run), 12)
            if index == 0 and names is not rest:
                yield from _graphs(bench, known[T])
    size = bench.scale.images[0]
    last = partial(measured, bench, known[T], size, channels_last=True)
    for mode in MODES:
        words = f'{T} given channels_last, {size.words}, {mode}'
        yield Task('networks', words, partial(last, mode=mode), 12)
    if bench.backend == 'plain':
        for mode in MODES:
            run = partial(_plain, bench, known[T], size, mode)
            yield Task('networks', f'{T} in plain torch, {size.words}, {mode}', run, 20)


def _flagged(bench: Bench, name: str, run: Callable[[], Row]) -> Callable[[], Row]:
    if not name.startswith('spatialmamba'):
        return run
    return lambda: {**run(), **bench.wrong(*DEPENDS)}


def _graphs(bench: Bench, build: Build) -> Iterator[Task]:
    for size in (bench.scale.single, bench.scale.images[0]):
        run = partial(measured, bench, build, size, 'inference')
        if size == bench.scale.single:
            yield Task('networks', f'{T}, {size.words}, inference', run, 12)
        if bench.on_gpu:
            words = f'{T} as a graph, {size.words}, inference'
            yield Task('networks', words, partial(captured, bench, build, size), 12)
    if bench.on_gpu:
        folded = lambda size: fuse_for_inference(build(size))  # noqa: E731
        words = f'{T} with folded norms as a graph, {size.words}, inference'
        yield Task('networks', words, partial(captured, bench, folded, size), 12)
        words = f'{T} as graphs, {size.words}, training'
        yield Task('networks', words, partial(captured_step, bench, build, size), 15)


def prepared(
    bench: Bench, build: Build, size: Size, mode: str, channels_last: bool = False
) -> tuple[nn.Module, Tensor]:
    """The network and its images, on the device."""
    torch.manual_seed(0)
    shape = (size.batch, 3, size.height, size.width)
    images = torch.randn(shape, device=bench.device)
    model = build(size).to(bench.device).train(mode == 'training')
    if type(model).__name__ == 'ConvNeXt':
        model, channels_last = model.to(memory_format=torch.channels_last), True
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return model, images


def work_of(
    bench: Bench, model: nn.Module, images: Tensor, mode: str
) -> Callable[[], None]:
    """One pass under autocast to bf16; training is forward and backward."""
    size = tuple(images.shape[2:])
    setting = Setting(size, images.shape[0], mode, 'bfloat16', bench.device)
    return passes(lambda: model(images), model.parameters(), setting)


def measured(
    bench: Bench, build: Build, size: Size, mode: str, channels_last: bool = False
) -> Row:
    """Time and peak memory; half the batch, twice, where it does not fit."""
    for batch in (size.batch, size.batch // 2, size.batch // 4):
        try:
            smaller = size._replace(batch=batch)
            return _measured(bench, build, smaller, mode, channels_last)
        except torch.OutOfMemoryError as error:
            if batch < 2:
                raise
            told = str(error)
        release()
    raise MemoryError(f'not even {batch} images: {told}')


def _measured(
    bench: Bench, build: Build, size: Size, mode: str, channels_last: bool
) -> Row:
    model, images = prepared(bench, build, size, mode, channels_last)
    work = work_of(bench, model, images, mode)
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    row = timed(bench, work, size.batch)
    row['first pass, s'] = round(first, 2)
    if bench.on_gpu:
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        peak = torch.cuda.max_memory_allocated()
        row['peak, GB'], row['beyond model, GB'] = peak / 1e9, (peak - held) / 1e9
    row['parameters, M'] = sum(p.numel() for p in model.parameters()) / 1e6
    return row


def timed(bench: Bench, work: Callable[[], None], batch: int) -> Row:
    """Milliseconds and images per second."""
    scale = bench.scale
    took = pass_milliseconds(work, bench.device, scale.passes, scale.warm_up)
    return {'ms': took, 'images/s': 1e3 * batch / took, 'batch': batch}


def captured(bench: Bench, build: Build, size: Size) -> Row:
    """Inference as a CUDA graph."""
    model, images = prepared(bench, build, size, 'inference')
    work = work_of(bench, model, images, 'inference')
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return timed(bench, graph.replay, size.batch)


def captured_step(bench: Bench, build: Build, size: Size) -> Row:
    """Forward and backward pass as CUDA graphs."""
    model, images = prepared(bench, build, size, 'training')
    with torch.autocast('cuda', torch.bfloat16, cache_enabled=False):
        run = torch.cuda.make_graphed_callables(model, (images,))
    shape = (size.height, size.width)
    setting = Setting(shape, size.batch, 'training', 'bfloat16', bench.device)
    return timed(
        bench, passes(lambda: run(images), model.parameters(), setting), size.batch
    )


def _plain(bench: Bench, build: Build, size: Size, mode: str) -> Row:
    with plain_torch():
        return measured(bench, build, size, mode)


def release() -> None:
    """Give memory back that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def profile_tasks(bench: Bench) -> Iterator[Task]:
    """Of the smallest network: where a step and a pass go."""
    for mode in reversed(MODES):
        run = partial(profile_network, bench, mode)
        yield Task('profile', f'{T}, {bench.scale.images[0].words}, {mode}', run, 15)
    for size in bench.scale.images[1:2]:
        run = partial(profile_network, bench, 'inference', size)
        yield Task('profile', f'{T}, {size.words}, inference', run, 15)
    yield Task('profile', 'binaries', binaries)


def profile_network(bench: Bench, mode: str, size: Size | None = None) -> Row:
    """A file with the 40 longest kernels, a row with the first of them."""
    chosen = size or bench.scale.images[0]
    model, images = prepared(bench, builders(bench)[T], chosen, mode)
    work = work_of(bench, model, images, mode)
    work()
    kernels, launched = profiled(work, bench.device, passes=2)
    title = f'SpatialMamba-T, {mode}, {chosen.words}, bf16'
    text = as_text(kernels, launched, title, 40)
    file = bench.out / f'profile-{mode}-{chosen.height}.txt'
    file.write_text(text, encoding='utf-8')
    return {
        'kernels, ms': sum(k.milliseconds for k in kernels),
        'launches': launched,
        'kernels': [list(k) for k in kernels[:20]],
    }


def binaries() -> Row:
    """Registers and the like of each of the package's kernels that has run here."""
    lines = []
    for module in [m for name, m in sys.modules.items() if name.startswith('mmssm.')]:
        for name, value in vars(module).items():
            if getattr(value, '__module__', '') != module.__name__:
                continue
            for cache, *_ in getattr(value, 'device_caches', {}).values():
                for kernel in cache.values():
                    about = kernel.metadata
                    lines.append(
                        f'{name}: {kernel.n_regs} registers, {kernel.n_spills} spilled,'
                        f' {about.shared} bytes shared, {about.num_warps} warps'
                    )
    return {'compiled': len(lines), 'binaries': sorted(lines)}


def growth_tasks(bench: Bench) -> Iterator[Task]:
    """Inference at sizes of four times the pixels each."""
    before = None
    for size in bench.scale.growth:
        run = partial(grown, bench, size, before)
        yield Task('growth', f'{T}, {size.words}', run, 12)
        before = size


def grown(bench: Bench, size: Size, before: Size | None) -> Row:
    """A row, and how it compares with that of a quarter of the pixels."""
    row = measured(bench, builders(bench)[T], size, 'inference')
    for smaller in bench.ledger.of('growth'):
        if before and smaller['name'] == f'{T}, {before.words}':
            row['for 4x the pixels'] = row['ms'] / smaller['ms']
    return row


def compiled_tasks(bench: Bench) -> Iterator[Task]:
    """torch.compile, with CUDA graphs of what it makes."""
    for mode in MODES:
        run = partial(compiled, bench, mode)
        yield Task('compiled', f'{T}, {bench.scale.images[0].words}, {mode}', run, 45)


def compiled(bench: Bench, mode: str) -> Row:
    """Seconds of the first pass, then as any network."""
    size = bench.scale.images[0]
    model, images = prepared(bench, builders(bench)[T], size, mode)
    work = work_of(bench, torch.compile(model, mode='reduce-overhead'), images, mode)
    start = time.perf_counter()
    work()
    if bench.on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    row = timed(bench, work, size.batch)
    row['compile, s'] = round(seconds, 1)
    return row
