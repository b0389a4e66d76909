"""What training and serving share: base registry, loading, the stacked LoRA layer, sampling."""
