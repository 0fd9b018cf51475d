"""What a backbone's outputs are, told as timm tells it."""

from collections.abc import Sequence


class FeatureInfo:
    """Channels and strides of a backbone's stages and which of them it returns.

    Code that is written for `features_only` models of timm reads these: `channels()`
    and `reduction()` give a list for the outputs, or one number for a stage;
    `feature_info[stage]` gives dict(num_chs=..., reduction=..., module=..., index=...).
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int],
    ) -> None:
        self.out_indices = tuple(out_indices)
        self.info = [
            {'num_chs': c, 'reduction': s, 'module': f'stages.{i}', 'index': i}
            for i, (c, s) in enumerate(zip(channels, strides, strict=True))
        ]

    def channels(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """Of each output, of the stage `idx`, or of several stages."""
        return self.get('num_chs', idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> int | list[int]:
        """The stride of each output, of the stage `idx`, or of several stages."""
        return self.get('reduction', idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> str | list[str]:
        """The module that makes each output, the stage `idx`, or several stages."""
        return self.get('module', idx)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> object:
        """The entry `key` of each output, of the stage `idx`, or of several stages."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self) -> list[dict[str, object]]:
        """All entries of each output."""
        return [dict(self.info[i]) for i in self.out_indices]

    def __getitem__(self, stage: int) -> dict[str, object]:
        return self.info[stage]

    def __len__(self) -> int:
        return len(self.info)
