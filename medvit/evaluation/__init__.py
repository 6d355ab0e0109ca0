"""Evaluation of a trained run: protocol, inference, other sites, seeds, robustness, OOD, explanation."""
