"""How a run is trained and tested: one loop for every method."""
