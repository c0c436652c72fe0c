"""Energies of structures: engines, single calculations, and the dataset made from them."""
