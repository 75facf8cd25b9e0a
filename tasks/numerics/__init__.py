"""Statistics and bit tricks that know nothing of filters or words."""
