"""Prefect: flows, artifacts, and the services of `lavise up`."""
