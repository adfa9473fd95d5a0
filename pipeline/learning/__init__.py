"""The training loop, without a cluster."""
