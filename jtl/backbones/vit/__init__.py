"""Vision transformers: ViT, DeiT, DINOv2: network, config and names."""
