"""What sft and grpo share."""
