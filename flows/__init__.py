"""Prefect runs the stages of dvc.yaml. Nothing here imports torch or knows a hyperparameter."""
