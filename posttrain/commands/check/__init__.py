"""`posttrain check`, and the preflight of every stage."""
