"""Thresholds frozen on validation, the table of predictions they are chosen on, and the unit of analysis."""
