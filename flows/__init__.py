"""Wiring only: the audit, its Prefect flow, the command line, services. Imports tasks, storage and configs."""
