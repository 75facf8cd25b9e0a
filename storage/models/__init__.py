"""Networks and their weights: architectures, checkpoints, layers, classifier heads, names of classes."""
