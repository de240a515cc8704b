"""One page a method. `methods.registry` knows them all; importing this package alone loads none."""
