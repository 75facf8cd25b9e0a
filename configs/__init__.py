"""What a run is: typed, validated settings and named presets. Imports nothing of ours."""
