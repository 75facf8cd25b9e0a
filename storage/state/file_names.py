"""Names of files that one part of the program writes and another reads."""

# What a run folder holds besides the tables of analyses.
CONFIG = "config.yaml"
INPUTS = "inputs.json"
ENVIRONMENT = "environment.json"
# In it: when the audit ended.
WRITTEN = "written"
ARTEFACTS = "artefacts.json"
STAGES = "stages.json"
SKIPPED = "skipped.json"
METRICS = "metrics.json"
REPORT = "report.html"
OVERVIEW = "overview.png"

# Copies of checkpoints, in the state folder.
SNAPSHOTS_FOLDER = "checkpoints"

# Words of filters; in the run folder and in the artefact of the stage `explain`.
EXPLANATIONS = "explanations.parquet"
FILTERS = "filters.parquet"
CALIBRATION = "calibration.json"
RELIABILITY = "reliability.png"
PAIRS = "pairs.npz"

# The panel; in the run folder too.
PANEL = "panel.json"

# The explainer; in the run folder and in an MLflow model too.
EXPLAINER_FACTS = "explainer.json"
EXPLAINER_WEIGHTS = "explainer.safetensors"
VOCABULARY = "vocabulary.json"
VOCABULARY_MATRIX = "matrix.npy"

# Statistics on activations and masks.
THRESHOLDS = "thresholds.npy"
SATURATED = "saturated.npy"
HISTOGRAM = "histogram.npy"
REGION_FEATURES = "features.npy"
REGION_CONCEPTS = "concept.npy"
REGION_IMAGES = "image.npy"
OVERLAPS = "overlaps.npz"
DETECTION = "detection.npz"
