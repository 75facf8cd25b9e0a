"""In which concepts groups of pictures differ."""
