"""Activation maps: extraction, thresholds, top pictures, region features."""
