"""From filters to words: which rule finds them, how sure they are, and how many things a filter means."""
