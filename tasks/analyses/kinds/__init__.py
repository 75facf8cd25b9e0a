"""One module per kind of analysis, with its record ANALYSIS; an audit runs whichever its settings want."""
