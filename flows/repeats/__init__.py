"""Audits that are run again: of new checkpoints, or of the same one."""
