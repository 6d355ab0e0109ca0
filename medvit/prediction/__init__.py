"""Predictions of one split as a table, the unit of analysis, and thresholds frozen on validation."""
