"""Activations against annotated masks: region pooling, overlaps, agreement, detection."""
