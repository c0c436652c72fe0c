"""Samplers and references. Every one returns the ensemble table of `segalflow.ensemble`."""
