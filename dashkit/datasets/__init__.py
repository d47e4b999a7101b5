"""Data sets: by name, from files of your own, or fetched once and verified.  For whoever adds images.

This room imports method (what an image set is) and storage.
"""
