"""Pictures: files of them, decoded, and brought to the size of the network's input."""
