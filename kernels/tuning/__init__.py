"""The tile sizes of each GPU model: tables in JSON and how ops read them."""
