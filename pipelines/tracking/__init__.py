"""MLflow: runs, what is told of them, and the models that it keeps."""
