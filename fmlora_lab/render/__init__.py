"""From notebooks to figures: what they will need, their execution, one report over all."""
