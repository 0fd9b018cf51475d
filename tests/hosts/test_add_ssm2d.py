"""add_ssm2d: hosts of every package stay what they are, and the layer learns."""

import copy
import io
import pickle
import threading

import pytest
import torch
from known_hosts import (
    KNOWN,
    each_host,
    each_place,
    evaluated,
    images,
    loss_of,
    outputs_of,
    plain,
)
from parity import assert_equal_in_double
from torch import nn

from mmssm.hosts import add_ssm2d, adding
from mmssm.hosts.mix import Mix

STATES = dict(num_states=2)


def hosted(name, place=None, start='identity'):
    model = plain(name)
    torch.manual_seed(4)
    return add_ssm2d(model, place, start, STATES)


@each_place
def test_identity_start_is_the_host_bit_for_bit(name, place):
    host = plain(name)
    model = copy.deepcopy(host)
    assert add_ssm2d(model, place, ssm2d=STATES) is model
    assert isinstance(model, type(host))
    for x in images(name):
        for training in (True, False):
            host.train(training), model.train(training)
            expected = outputs_of(host, x)
            assert all(map(torch.equal, outputs_of(model, x), expected))


@each_place
def test_names_of_the_host_stay_and_those_of_the_layer_are_new(name, place):
    host, model = plain(name), hosted(name, place)
    weights = {k: torch.randn_like(v) for k, v in host.named_parameters()}
    loaded = model.load_state_dict(weights, strict=False)
    added = {k for k, _ in model.named_parameters() if '.mix.' in k}
    buffers = {k for k, _ in host.named_buffers()}
    assert loaded.unexpected_keys == []
    assert set(loaded.missing_keys) - buffers == added != set()
    ours = dict(model.named_parameters())
    assert all(torch.equal(ours[key], value) for key, value in weights.items())


@each_place
def test_everything_learns_from_the_identity(name, place):
    model = hosted(name, place).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(outputs_of(model, images(name)[1].double())).backward()
        optimizer.step()
    plain_ones = {n for n, p in model.named_parameters() if p.grad is None}
    host = plain(name).double()
    loss_of(outputs_of(host, images(name)[1].double())).backward()
    assert plain_ones == {n for n, p in host.named_parameters() if p.grad is None}
    added = {n: p for n, p in model.named_parameters() if '.mix.' in n}
    assert [n for n, p in added.items() if not p.grad.any()] == []


@each_place
def test_published_start_trains_and_survives_saving_and_copying(name, place):
    model = hosted(name, place, start='published').double()
    x = images(name)[1].double()
    outputs = outputs_of(model, x)
    loss_of(outputs).backward()
    added = {n: p for n, p in model.named_parameters() if '.mix.' in n}
    assert added
    assert all(p.grad is not None and p.grad.any() for p in added.values())
    assert not any(n.endswith('.mix.gain') for n in added)
    outputs = [y.detach() for y in outputs]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = add_ssm2d(plain(name), place, 'published', STATES).double()
    loaded = other.load_state_dict(torch.load(file), strict=False)
    assert loaded.unexpected_keys == []
    # mmpretrain's Swin V2 leaves its tables out
    assert set(loaded.missing_keys) <= {n for n, _ in other.named_buffers()}
    copies = [other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model(images(name)[0].double())
        for twin in copies:
            for y, expected in zip(outputs_of(twin, x), outputs, strict=True):
                assert_equal_in_double(y, expected)


@each_place
def test_two_threads_do_not_see_each_other(name, place):
    model = hosted(name, place, start='published')
    (height, width), x = KNOWN[name].sizes[1], images(name)[1]
    views = [
        x,
        x.transpose(2, 3) if 'pvt' in name else torch.randn(2, 3, width, height),
    ]
    with torch.no_grad():
        expected = [outputs_of(model, view) for view in views]
    wrong = []

    def work(index):
        with torch.no_grad():
            for _ in range(8):
                pairs = zip(model_outputs(views[index]), expected[index], strict=True)
                wrong.extend(not torch.allclose(*pair, atol=1e-4) for pair in pairs)

    def model_outputs(view):
        y = model(view)
        return [y] if isinstance(y, torch.Tensor) else list(y)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong
    assert not any(wrong)


@each_host
def test_the_compiled_host_is_one_graph_and_gives_what_eager_gives(name):
    torch._dynamo.reset()
    model = hosted(name, start='published').double()
    # mmpretrain's ViT breaks the graph itself, by rates that are numbers of numpy, and
    # its compiled bicubic resizing of positions is off by 3e-8 without the layer too
    whole = name not in ('mmpretrain vit', 'mmpretrain deit with distillation')
    compiled = torch.compile(model, fullgraph=whole, backend='aot_eager', dynamic=False)
    x = images(name)[1 if whole else 0].double()
    with torch.no_grad():
        pairs = zip(outputs_of(compiled, x), outputs_of(model, x), strict=True)
    for actual, expected in pairs:
        assert_equal_in_double(actual, expected)


@each_host
def test_the_layer_sees_the_upright_map(name, monkeypatch):
    monkeypatch.setattr(adding, 'SSM2D', Recorder)
    model = add_ssm2d(plain(name), start='identity')
    outputs = []
    model.get_submodule(KNOWN[name].seen).register_forward_hook(
        lambda module, args, y: outputs.append(y[0] if isinstance(y, tuple) else y)
    )
    x = images(name)[1]
    model(x)
    size = tuple(-(-side // KNOWN[name].patch) for side in x.shape[2:])
    mix = next(m for m in model.modules() if isinstance(m, Mix))
    assert mix.ssm2d.seen.shape == (2, mix.channels, *size)
    expected = outputs[0]
    if expected.dim() == 3:
        expected = expected[:, -size[0] * size[1] :].transpose(1, 2).unflatten(2, size)
    elif expected.shape[1:3] == size:
        expected = expected.permute(0, 3, 1, 2)
    assert torch.equal(mix.ssm2d.seen, expected)


class Recorder(nn.Module):
    """Keeps what it sees, and turns it upside down."""

    def __init__(self, channels):
        super().__init__()
        self.seen = None

    def forward(self, x):
        self.seen = x
        return x.flip(2)


@each_place
def test_a_layer_that_doubles_is_a_weight_twice_as_large(name, place, monkeypatch):
    if place == 'conv' or name in NOT_LINEAR:
        pytest.skip('something else than a linear layer sees the map')
    monkeypatch.setattr(adding, 'SSM2D', Double)
    host = plain(name).double()
    model = add_ssm2d(copy.deepcopy(host), place, 'published')
    for key, weight in host.named_parameters():
        inputs = key.endswith(('qkv.weight', 'in_proj_weight'))
        hidden = '.mlp.fc1.' in key or 'ffn.layers.0.0' in key
        if place == 'attention' and inputs:
            weight.data *= 2
        elif place == 'query_key' and inputs:
            weight.data[: len(weight) // 3 * 2] *= 2
        elif place == 'ffn' and hidden and 'rel_pos' not in key:
            weight.data *= 2
    for x in images(name):
        with torch.no_grad():
            pairs = zip(
                outputs_of(model, x.double()), outputs_of(host, x.double()), strict=True
            )
            for y, expected in pairs:
                assert_equal_in_double(y, expected)


NOT_LINEAR = (
    'mmdet pvt',
    'mmdet pvt v2',
    'mmseg mit',
    # class and other tokens, which go round the layer
    'timm vit with registers',
    'timm deit with distillation',
    'mmseg vit',
    'mmpretrain deit with distillation',
)


class Double(nn.Module):
    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        return 2 * x


TIMM = [n for n in KNOWN if n.startswith('timm')]
BARE_TOKENS = [n for n in TIMM if 'vit' in n.split() or 'deit' in n]


@pytest.mark.parametrize('name', TIMM)
def test_recomputing_the_blocks_of_timm_changes_nothing(name):
    pytest.importorskip('timm')
    expected = gradients_of(name, recomputing=False)
    recomputed = gradients_of(name, recomputing=True)
    for key, gradient in expected.items():
        if gradient.abs().max() > 1e-10:  # biases before a softmax have none
            assert_equal_in_double(recomputed[key], gradient, key)


@pytest.mark.parametrize('name', BARE_TOKENS)
def test_recomputing_that_loses_the_grid_of_tokens_is_refused(name):
    timm = pytest.importorskip('timm')
    timm.layers.set_reentrant_ckpt(True)
    try:
        with pytest.raises(RuntimeError, match='use_reentrant=False'):
            gradients_of(name, recomputing=True)
    finally:
        timm.layers.set_reentrant_ckpt(False)


def gradients_of(name, recomputing):
    model = hosted(name, start='published').double()
    model.set_grad_checkpointing(recomputing)
    height, width = KNOWN[name].sizes[1]
    generator = torch.Generator().manual_seed(5)
    wide, tall = (
        torch.randn(1, 3, *size, generator=generator).double().requires_grad_()
        for size in [(height, width), (width, height)]
    )
    # two passes of swapped sides before the way back
    loss_of([model(wide), model(tall)]).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_networks_without_a_place_are_refused():
    with pytest.raises(ValueError, match=r'Sequential has no block.*MaxViT.*modules='):
        add_ssm2d(nn.Sequential(nn.Conv2d(3, 3, 1)))


def test_bad_arguments_are_named():
    name = 'mmssm convnext'
    with pytest.raises(ValueError, match="place is 'ffn'; the blocks.* have conv"):
        hosted(name, 'ffn')
    with pytest.raises(ValueError, match="start is 'zero'; expected"):
        hosted(name, start='zero')
    with pytest.raises(ValueError, match="no option 'num_state'; did you mean"):
        add_ssm2d(plain(name), ssm2d=dict(num_state=2))
    with pytest.raises(ValueError, match='ConvNeXt has the 2-D SSM already'):
        add_ssm2d(hosted(name))
    with pytest.raises(ValueError, match="place is 'conv' beside modules"):
        add_ssm2d(plain(name), 'conv', modules={'stem': 'BCHW'})


def test_the_layer_comes_to_the_device_and_mode_of_the_host():
    model = add_ssm2d(plain('mmssm convnext').to('meta').double(), ssm2d=STATES)
    assert {p.device.type for p in model.parameters()} == {'meta'}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())


@each_host
def test_blocks_with_the_layer_are_found_again(name):
    model = evaluated(hosted(name))
    assert adding.choose_blocks(model, None)
    with pytest.raises(ValueError, match='already'):
        add_ssm2d(model)
