"""MESA, its loss and the average that teaches, against a plain loop."""

import copy
import itertools
import math

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner import Runner
from openmmlab.engine.distilled import DistilledData, DistilledModel
from torch import nn

from mmssm.openmmlab.engine import MESAHook, UserError
from mmssm.openmmlab.engine.self_distillation import distillation_loss

BATCHES, EPOCHS, RATE = 3, 4, 0.5
NUMBERS = itertools.count()


class Halved(nn.Module):
    """As dropout and drop path, it does something in training alone, but no dice."""

    def forward(self, x):
        return x / 2 if self.training else x


class Small(DistilledModel):
    """A head of five classes behind what a teacher does in another way."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), Halved())


LOADER = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)


def run(folder, hook, model=None, train_cfg=None, **options):
    torch.manual_seed(0)
    runner = Runner(
        model=model or Small(),
        work_dir=str(folder),
        train_dataloader=dict(LOADER, dataset=DistilledData()),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=EPOCHS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=RATE)),
        custom_hooks=[hook],
        experiment_name=f'mesa{next(NUMBERS)}',
        randomness=dict(seed=3),
        **options,
    )
    runner.train()
    return runner


def by_hand(begin, weight, decay):
    """Student, teacher and losses of the same run, as the papers' trainers have it."""
    torch.manual_seed(0)
    student = Small()
    teacher = copy.deepcopy(student).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE)
    losses = []
    for epoch, batch in itertools.product(range(EPOCHS), range(BATCHES)):
        data = [DistilledData()[i] for i in range(8 * batch, 8 * batch + 8)]
        x = torch.stack([d['inputs'] for d in data])
        labels = torch.tensor([d['labels'] for d in data])
        logits = student.train()(x)
        loss = nn.functional.cross_entropy(logits, labels)
        if epoch >= begin:
            with torch.no_grad():
                truth = teacher(x).softmax(1)
            rows = zip(truth.tolist(), logits.log_softmax(1), strict=True)
            loss = loss - weight / 8 * sum(p @ q for p, q in _tensors(rows))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = epoch == batch == 0  # mmengine's average is the weights of one step
        for name, mean in teacher.state_dict().items():
            value = student.state_dict()[name]
            if mean.is_floating_point():
                mean.copy_(value if first else decay * mean + (1 - decay) * value)
    return student, teacher, losses


def _tensors(rows):
    return ((torch.tensor(p), q) for p, q in rows)


@pytest.mark.parametrize(('begin', 'weight', 'decay'), [(0.5, 1.5, 0.9), (0.0, 1, 0.7)])
def test_a_run_is_that_of_a_plain_loop(begin, weight, decay, tmp_path):
    hook = MESAHook(weight, begin, momentum=1 - decay)
    runner = run(tmp_path, hook)
    student, teacher, losses = by_hand(begin * EPOCHS, weight, decay)
    for found, expected in ((runner.model, student), (hook.teacher, teacher)):
        for name, value in expected.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(found.state_dict()[name], value, msg=name)
    history = runner.message_hub.get_scalar('train/loss')._log_history
    assert history.tolist() == pytest.approx(losses, rel=1e-5)
    added = runner.message_hub.get_scalar('train/loss_mesa')._log_history
    assert len(added) == BATCHES * (EPOCHS - int(begin * EPOCHS))


def test_loss_and_its_gradient_by_hand():
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    loss = distillation_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert student.grad.tolist() == [pytest.approx([-0.25, 0.25])]
    assert teacher.grad is None


def test_half_precision_logits_are_compared_in_single():
    logits = torch.full((2, 3), 300.0, dtype=torch.bfloat16)
    logits[:, 0] += 2
    single = logits.float()
    assert torch.equal(
        distillation_loss(logits, logits), distillation_loss(single, single)
    )


def test_a_loop_of_iterations_begins_with_its_part(tmp_path):
    loop = dict(type='IterBasedTrainLoop', max_iters=7)
    hook = MESAHook(begin=0.5)
    logs = dict(by_epoch=False)
    runner = run(tmp_path, hook, train_cfg=loop, log_processor=logs)
    assert len(runner.message_hub.get_scalar('train/loss_mesa')._log_history) == 4


def test_checkpoint_holds_the_average_and_resumes(tmp_path):
    hook = MESAHook(begin=0.25, momentum=0.3)
    run(tmp_path / 'whole', hook)
    saved = torch.load(tmp_path / 'whole/epoch_4.pth', weights_only=False)
    for name, value in hook.teacher.state_dict().items():
        assert torch.equal(saved['state_dict'][name], value)
    part = tmp_path / 'whole/epoch_2.pth'
    again = MESAHook(begin=0.25, momentum=0.3)
    runner = run(tmp_path / 'rest', again, load_from=str(part), resume=True)
    assert again.teaches
    assert runner.iter == BATCHES * EPOCHS
    for name, value in hook.ema_model.state_dict().items():
        assert torch.equal(again.ema_model.state_dict()[name], value)


def test_the_model_is_as_before_after_a_run(tmp_path):
    model = Small()
    run(tmp_path, MESAHook(), model=model)
    assert 'loss' not in vars(model)
    copy.deepcopy(model)
    assert not model.head._forward_hooks


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(weight=0), 'weight is 0; expected a number above 0'),
        (dict(weight='1'), "weight is '1'"),
        (dict(weight=float('nan')), 'weight is nan'),
        (dict(begin=1), 'begin is 1; expected a part of the run'),
        (dict(begin=-0.1), 'begin is -0.1'),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ValueError, match=words):
        MESAHook(**options)


@MODELS.register_module()
class Headless(Small):
    def __init__(self):
        super().__init__()
        self.neck = self.head
        del self.head


def test_a_model_without_a_head_is_named(tmp_path):
    with pytest.raises(UserError, match='needs a classifier .* is a Headless'):
        run(tmp_path, MESAHook(), model=Headless())
