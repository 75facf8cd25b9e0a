"""Whether a network goes by what is expected of it: words that must, and words that must not, matter."""
