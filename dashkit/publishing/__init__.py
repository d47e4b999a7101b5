"""Publishing: the series executed and reported, and every generated part of the README.  For maintainers.

This room may import every other one.
"""
