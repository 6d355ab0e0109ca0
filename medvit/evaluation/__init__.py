"""Evaluation of a trained run: protocol, inference, other sites, seeds, robustness, OOD, explanation.

Thresholds are chosen in `medvit.metric.operating_point`, frozen in `medvit.prediction.thresholds`.
"""
