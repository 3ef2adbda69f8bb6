"""params.yaml: its schema, how it is read, the recipes that are merged into it. Imports no torch."""
