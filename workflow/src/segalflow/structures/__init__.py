"""Symmetry-distinct decorations of the parent lattice and their selection."""
