"""Figures. Each is written with the plotted data beside it as CSV."""
