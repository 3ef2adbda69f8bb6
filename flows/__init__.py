"""Prefect runs the stages of dvc.yaml. Nothing here imports torch or knows a hyperparameter."""

import os

# Prefect reads its settings when it is imported, so they are set before any module here can import it. DO_NOT_TRACK
# does not reach Prefect's own server: it would phone home all the same, and say ERROR on a machine without a network.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")  # a busy machine needs more than 20
