"""Interop: networks for other libraries, and back.  For whoever uses a student elsewhere.

This room imports method and storage, and needs no other library to be installed.
"""
