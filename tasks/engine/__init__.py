"""How work is done: stages with a content address, and the cluster for statistics."""
