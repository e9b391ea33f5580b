"""Beam models: the data (`model`), its one-file format (`file`), finding them, importing and fitting them."""
