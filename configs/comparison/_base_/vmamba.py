# VMamba-T's stages of 2, 2, 8, 2 blocks, halved
channels = [27, 54, 108, 216]
backbone = dict(
    type='mmssm.VMamba', arch=dict(channels=27, depths=(1, 1, 4, 1), expand=1)
)
