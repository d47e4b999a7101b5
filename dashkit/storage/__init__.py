"""Storage: files written whole or not at all, folder locks, tidy tables, provenance.  For whoever keeps results.

This room imports nothing else of the kit.
"""
