"""Where new checkpoints come from: a folder, or models that are registered in MLflow."""
