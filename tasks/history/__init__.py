"""Audits beside earlier ones: matched filters, policies, reruns."""
