"""From a dataset to a cluster expansion: basis, fit, validation, ground states, and the model file."""
