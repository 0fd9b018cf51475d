"""Randomness that is a function of the seed and the iteration, so that it resumes."""

import itertools
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from mmssm.openmmlab.errors import UserError
from mmssm.registry import HOOKS


def seed_all(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch with a hash of the key."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class NumberedBatches:
    """Batches of a batch sampler, each with the iteration that it feeds.

    Yields pairs (iteration, indices).  endless: for loops over iterations: goes on
    with the next pass over the data, and starts at the loop's iteration by dropping
    the batches before it, without loading their data.  Else one pass, the first batch
    of which feeds the loop's iteration; where `passed`, a share of a pass, is not 0,
    the pass goes on from there, once.  Raises UserError for a pass without any.

    begun: iteration that the first batch of the pass fed.
    """

    def __init__(
        self,
        batches: BatchSampler,
        loop: BaseLoop,
        endless: bool,
        passed: Fraction = Fraction(0),
    ) -> None:
        self.batches = batches
        self.sampler = batches.sampler
        self.batch_size = batches.batch_size
        self.loop = loop
        self.endless = endless
        self.passed = passed
        self.begun = loop.iter

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        first = self.loop.iter
        if self.endless:
            yield from itertools.islice(enumerate(self._passes()), first, None)
        else:
            skipped, self.passed = int(self.passed * len(self)), Fraction(0)
            self.begun = first - skipped
            numbered = enumerate(self._pass(), start=self.begun)
            yield from itertools.islice(numbered, skipped, None)

    def _passes(self) -> Iterator[list[int]]:
        for number in itertools.count():
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(number)
            yield from self._pass()

    def _pass(self) -> Iterator[list[int]]:
        empty = True
        for batch in self.batches:
            empty = False
            yield batch
        if empty:
            raise UserError(
                'the training data gives no batch: '
                f'{len(self.sampler)} samples for this process, batches of '
                f'{self.batch_size}, drop_last={self.batches.drop_last}. Use a '
                'smaller train_dataloader.batch_size, drop_last=False, or more data'
            )


class ResumedBatches:
    """The iterator of a loop over iterations whose batches start where it resumes.

    The loop's own fast-forward finds nothing left to do: `skip_iter` of one mmengine
    is empty, and the calls of `next` by the other are answered without data.

    idle: how many of these calls to expect.
    """

    def __init__(self, loader: DataLoader, idle: int) -> None:
        self.loader = loader
        self.idle = idle
        self.batches: Iterator | None = None

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Mapping | None:
        if self.idle:
            self.idle -= 1
            return None
        if self.batches is None:
            self.batches = iter(self.loader)
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        """Nothing: the batches start at the loop's iteration."""


@HOOKS.register_module()
class ResumableRandomnessHook(Hook):
    """Makes a resumed run repeat, to the last digit on CPUs, what it would have done.

    A checkpoint of mmengine holds weights, optimizer, schedulers and counters, but no
    generator's state, and worker processes, which augment the data, keep generators
    of their own.  Here every generator is seeded by what it is used for instead:
    (seed, rank, iteration, place in the batch) before a sample is loaded, in
    whichever process, and (seed, rank, iteration) before a training step.  Nothing
    needs to be saved; validation in between and prefetching change nothing.

    Not covered: what a dataset or model keeps from one sample to the next outside the
    checkpoint (a cache of images for mosaics, say), and iterable datasets.  An epoch
    that is resumed in its middle goes on there; its lines in the log count anew.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._batches: NumberedBatches | None = None
        self._passed = Fraction(0)
        self._in_epoch = False

    def before_train_epoch(self, runner: Runner) -> None:
        self._in_epoch = True

    def after_train_epoch(self, runner: Runner) -> None:
        self._in_epoch = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._batches is not None and not self._batches.endless and self._in_epoch:
            done = checkpoint['meta']['iter'] - self._batches.begun
            checkpoint['meta']['batches'] = [done, len(self._batches)]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner.cfg.get('resume') and 'batches' in checkpoint.get('meta', {}):
            self._passed = Fraction(*checkpoint['meta']['batches'])

    def before_train(self, runner: Runner) -> None:
        loop, loader = runner.train_loop, runner.train_dataloader
        by_batches = isinstance(getattr(loader, 'batch_sampler', None), BatchSampler)
        if not by_batches or isinstance(loader.dataset, IterableDataset):
            runner.logger.warning(
                'the training data is not drawn by a batch sampler; its order and '
                'augmentation will not be repeated exactly when this run is resumed'
            )
            return
        endless = isinstance(loop, IterBasedTrainLoop)
        batches = NumberedBatches(loader.batch_sampler, loop, endless, self._passed)
        self._batches = batches
        # the loader forbids plain assignment; its other settings stay as they are
        object.__setattr__(loader, 'batch_sampler', batches)
        seeded = partial(load_seeded, loader.dataset, runner.seed, runner.rank)
        loader.dataset.__getitems__ = seeded
        if endless:
            self._restart(loop, loader)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Mapping | None = None
    ) -> None:
        seed_all(runner.seed, runner.rank, runner.iter)

    @staticmethod
    def _restart(loop: BaseLoop, loader: DataLoader) -> None:
        """Let the loop draw anew; mmengine 0.10.7 has begun to, before it resumed."""
        skips = hasattr(loop.dataloader_iterator, 'skip_iter')
        loop.dataloader_iterator = ResumedBatches(
            loader, idle=0 if skips else loop.iter
        )
        loader._iterator = None
        if isinstance(loader.sampler, InfiniteSampler):
            loader.sampler.indices = loader.sampler._indices_of_rank()


def load_seeded(
    dataset: Dataset, seed: int, rank: int, batch: tuple[int, list[int]]
) -> list[object]:
    """Samples of a batch (iteration, indices), each under its own seed."""
    iteration, indices = batch
    samples = []
    for place, index in enumerate(indices):
        seed_all(seed, rank, iteration, 1 + place)
        samples.append(dataset[index])
    return samples
