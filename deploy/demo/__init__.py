"""The data and the small CLIP that ship with the package, and the scripts that made them."""
