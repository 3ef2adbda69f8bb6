"""What is written: facts, manifests, checkpoints, whole or not at all."""
