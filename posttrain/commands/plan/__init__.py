"""`posttrain plan`."""
