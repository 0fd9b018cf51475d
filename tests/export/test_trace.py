"""TorchScript traces: every family, at the size that was traced and another batch."""

import pytest
import torch
from export.networks import FAMILIES, small


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('family', FAMILIES)
def test_a_trace_gives_what_torch_gives(family, tmp_path):
    model, x = small(family), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        torch.jit.save(traced, tmp_path / 'model.pt')
        loaded = torch.jit.load(tmp_path / 'model.pt')
        other = torch.randn(1, 3, 64, 96)
        for actual, expected in zip(loaded(other), model(other), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
