"""How cost grows along one axis at a time; `make bench WHAT=growth`."""
