"""The Ray cluster: joining it, what it lacks, and jobs that were submitted to it."""
