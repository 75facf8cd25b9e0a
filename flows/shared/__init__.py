"""What all flows need: opened data sets, extraction, execution of stages, results."""
