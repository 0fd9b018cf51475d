# Spatial-Mamba-T's stages of 2, 4, 8, 4 blocks, halved
channels = [19, 38, 76, 152]
backbone = dict(type='mmssm.SpatialMamba', arch=dict(channels=19, depths=(1, 2, 4, 2)))
