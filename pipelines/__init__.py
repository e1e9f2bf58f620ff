"""The Ray jobs."""
