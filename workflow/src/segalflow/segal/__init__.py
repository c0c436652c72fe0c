"""SEGAL: autoregressive networks that give the exact probability of every decoration they draw."""
