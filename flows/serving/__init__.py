"""The explainer as an MLflow model."""
