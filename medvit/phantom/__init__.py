"""Generated chest films, brain MR series and foreign images with known truth; the default data set."""
