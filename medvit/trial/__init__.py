"""A trained run put to the test: its images, predictions, baselines and maps, and the report attached to it."""
