"""Hyperparameter search: ranges of settings, and the Optuna study that draws from them. The only importer of Optuna."""
