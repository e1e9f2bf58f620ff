"""What a job tells: progress, hours, failures in one line, no secrets; and the signals that end it."""
