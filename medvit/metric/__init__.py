"""Numbers for reports: ranking, calibration, operating points and their intervals, in numpy fp64, without torch."""
