"""Released ConvNeXt: its names, and those of mmpretrain."""

from mmssm.weights.official.family import Family

FAMILIES = {
    'convnext': Family(
        signature=r'stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.weight$',
        renames=(
            (r'^downsample_layers\.0\.0\.', 'stem.conv.'),
            (r'^downsample_layers\.0\.1\.', 'stem.norm.'),
            (r'^downsample_layers\.(\d+)\.0\.', r'stages.\1.downsample.norm.'),
            (r'^downsample_layers\.(\d+)\.1\.', r'stages.\1.downsample.conv.'),
            (r'^stages\.(\d+)\.(\d+)\.', r'stages.\1.blocks.\2.'),
            (r'^norm(\d+)\.', r'out_norms.\1.'),
            (r'\.dwconv\.', '.depthwise_conv.'),
            (r'\.(pwconv|pointwise_conv)([12])\.', r'.mlp.fc\2.'),
        ),
        finish=dict,
    ),
}
