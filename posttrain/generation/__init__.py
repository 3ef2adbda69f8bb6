"""Completions of prompts by a transformers model in this process: how tokens are drawn, and how it goes fast."""
