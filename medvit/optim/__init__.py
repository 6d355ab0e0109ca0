"""Optimisation: strategies, parameter groups, schedule, weight averaging, and probes on cached features."""
