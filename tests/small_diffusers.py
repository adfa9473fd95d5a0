"""Options of networks of diffusers that are small enough for a test."""

U_NET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}
DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}
