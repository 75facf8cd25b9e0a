"""Words: vectors, lemmas, WordNet, and which of them can be photographed."""
