"""Drawing of charts: the same input, the same bytes."""
