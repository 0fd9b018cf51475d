# Swin-T's stages, not halved: only every second block of a stage shifts its windows
channels = [20, 40, 80, 160]
swin = dict(
    type='SwinTransformer',
    embed_dims=20,
    depths=(2, 2, 6, 2),
    num_heads=(1, 2, 4, 8),
    window_size=4,
    drop_path_rate=0.0,
)
