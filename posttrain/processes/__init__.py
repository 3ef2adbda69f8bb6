"""Nothing is left running: process trees, worker pools, locks, signals."""
