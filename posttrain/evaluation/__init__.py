"""Models on held-out problems: lighteval's process, statistics, the gate."""
