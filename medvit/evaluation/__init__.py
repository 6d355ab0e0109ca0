"""A trained run put to the test: protocol, inference, other sites, seeds, robustness, OOD, explanation."""
