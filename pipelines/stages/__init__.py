"""The jobs, a folder each: what runs on the driver, and what on Ray's workers."""
