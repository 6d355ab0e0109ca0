"""How the weights move: strategies, parameter groups, schedule, averaging, and probes on cached features."""
