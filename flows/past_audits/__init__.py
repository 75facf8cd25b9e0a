"""Audits that have ended: read, compared and judged."""
