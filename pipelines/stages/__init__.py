"""What the jobs run on Ray workers."""
