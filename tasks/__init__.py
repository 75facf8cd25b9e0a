"""One module per stage: typed, pure functions of settings and handles. Imports storage and configs."""
