"""Two-layer perceptron at every position of a map."""

from torch import Tensor, nn

from mmssm.layers.channel_norm import linear_of_norm
from mmssm.layers.recomputed import linear_after


class MLP(nn.Module):
    """fc2(GELU(fc1(norm x))) over the channels of a (B, C, H, W) map, exact GELU.

    norm: comes before it.  What the norm and the GELU give is computed again in the
    backward pass.
    fc1: C -> ratio * C; fc2: back to C; weights from N(0, 0.02^2) truncated at 2,
    biases 0.
    """

    def __init__(self, channels: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        (hidden,) = linear_of_norm(self.fc1, norm, x)  # (B, H, W, ratio * C)
        (x,) = linear_after(self.fc2, self.act, (hidden,))
        return x.permute(0, 3, 1, 2)
