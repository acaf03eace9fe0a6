"""MLflow tracking, metric delivery, progress and node metrics."""
