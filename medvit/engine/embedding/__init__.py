"""One vector per image, series, study or patient, by a run, a checkpoint or a bundle."""
