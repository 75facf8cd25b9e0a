"""What is made before any network runs: scenes, and the vocabulary."""
