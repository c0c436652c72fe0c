"""The summary page: what was done, on what data, how sure each number is, and what the energies get wrong.

Everything on the page is read from the study's files; nothing is computed here but counts and quantiles.
"""
