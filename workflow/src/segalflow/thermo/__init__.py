"""Thermodynamics from samples: error estimates, comparison of methods, free energies."""
