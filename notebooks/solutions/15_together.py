"""Solutions of lesson 15."""

learning = "MNP"  # the core changes too, but by adding M Nᵀ when the task ends


def kept_numbers(d_out, d_in, R, n_tasks):
    return R * (d_out + d_in) + R * R  # A and B, and the core: the same for any number of tasks
