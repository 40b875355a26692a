"""Training stages, one page each: pretrain, then posttrain."""
