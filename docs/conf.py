"""Sphinx settings of `make site`; everything a page needs lies beside it, so that the site reads offline."""

project = "The DASH series"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
language = "en"
html_theme = "sphinx_book_theme"
html_title = project
html_copy_source = False
html_show_copyright = False
html_theme_options = {"show_navbar_depth": 1, "navigation_with_keys": True}
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
