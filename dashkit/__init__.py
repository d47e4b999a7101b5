"""Guidance-calibrated distillation of diffusion models: a kit to learn it, and to measure it.

Importing this imports nothing, so that `dashkit doctor` runs where torch is broken.  Start at `dashkit.method`.
"""
