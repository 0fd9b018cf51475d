# VMINet's stages of 2, 2, 18, 2 blocks, halved
channels = [27, 54, 108, 216]
backbone = dict(
    type='mmssm.VMINet',
    arch=dict(channels=27, depths=(1, 1, 9, 1), expand=2),
    train_size=128,
)
