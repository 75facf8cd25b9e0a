"""The audit: which stage reads what, layer by layer, and the run folder it leaves."""
