"""The preflight: what each node of the cluster is asked before a job is started, and the table of the answers."""
