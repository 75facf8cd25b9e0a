"""The state folder: artefacts by content address, locks, housekeeping; and what a run ran on."""
