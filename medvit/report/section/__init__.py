"""Sections of the report: one function each, from predictions to tables."""
