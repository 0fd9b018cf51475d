"""Two-layer perceptron at every position of a map."""

from torch import Tensor, nn


class MLP(nn.Module):
    """fc2(GELU(fc1 x)) over the channels of a (B, C, H, W) map, exact GELU.

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

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        x = self.fc2(self.act(self.fc1(x)))
        return x.permute(0, 3, 1, 2)
