"""Solutions of lesson 11."""


def lora_numbers(d_out, d_in, r):
    return r * (d_out + d_in)


def lora_layer(x, W0, U, V):
    return x @ (W0 + U @ V.T).T


both_zero = "b"  # the gradient of U has V as a factor, and that of V has U
