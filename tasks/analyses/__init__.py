"""What an audit adds to the words of a layer's filters: one record for each kind of analysis."""
