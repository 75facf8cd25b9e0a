"""What the words are worth: recall, ground truth, and the panel."""
