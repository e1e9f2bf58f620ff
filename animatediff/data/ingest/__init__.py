"""Ingest without Ray: plan, units, parts, seal."""
