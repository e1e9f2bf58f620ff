"""The train job."""
