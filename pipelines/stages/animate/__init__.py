"""The animate job, and the score job that reads its clips."""
