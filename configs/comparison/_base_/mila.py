# MILA-T's stages of 2, 4, 8, 4 blocks, halved
channels = [20, 40, 80, 160]
backbone = dict(type='mmssm.MILA', arch=dict(channels=20, depths=(1, 2, 4, 2), heads=1))
