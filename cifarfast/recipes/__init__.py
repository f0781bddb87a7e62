"""Recipes: the settings of a run, the TOML files that come along, and what is built from them."""
