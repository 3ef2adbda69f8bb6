"""The trainer of GRPO, what watches it, and what it leaves behind."""
