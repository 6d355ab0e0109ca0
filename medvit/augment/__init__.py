"""Random changes of training images, the fixed disturbances of robustness tests, and MONAI transforms wrapped."""
