"""The only rooms that import ray and mlflow."""
