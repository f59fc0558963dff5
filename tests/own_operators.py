"""What the project's operators run, to look inside of a call."""

from fusedface.kernels.gpu import keys, primitive, whole

IMPLEMENTATIONS = {
    "margin_loss": whole.loss._forward_operator,
    "margin_loss_backward": whole.loss._backward_operator,
    "target_cosine": primitive._target_cosine._init_fn,
    "cosine_lse": primitive._forward._init_fn,
    "cosine_lse_backward": primitive._backward._init_fn,
    "class_keys": keys._keys,
}
